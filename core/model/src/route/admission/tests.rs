use super::*;

const MILLISECOND: Duration = Duration::from_millis(1);

fn settings() -> AdmissionSettings {
    AdmissionSettings {
        percentile: 50.0,
        first: 3,
        least: 3,
        most: 1000,
        every: Duration::from_millis(500),
        best: BestTime::Measured { every: Duration::from_secs(300), jitter: 0.15, requests: 50 },
        buffer: 0.25,
        status: 503,
    }
}

/// A service that works on so many at once, each for so long; what comes besides waits for its turn. Time is counted, not waited for.
struct Service {
    places: u32,
    work: Duration,
    now: Instant,
}

impl Service {
    /// Asked for more than it can do for so long, by a limit of this state; gives the last limit, and what the last requests took.
    fn flood(&mut self, gradient: &mut Gradient, settings: &AdmissionSettings, time: Duration) -> (u32, Duration) {
        let end = self.now + time;
        let (mut under_way, mut took) = (std::collections::VecDeque::new(), Duration::ZERO);
        let pace = self.work / self.places;
        let mut free = self.now;
        while self.now < end {
            gradient.look(settings, self.now);
            while under_way.len() < gradient.limit() as usize {
                // One ends after another, each one's work done.
                free = free.max(self.now + self.work - pace) + pace;
                under_way.push_back((self.now, free));
            }
            while let Some((began, ends)) = under_way.front().copied().filter(|(_, ends)| *ends <= self.now) {
                under_way.pop_front();
                took = ends - began;
                gradient.ended(settings, began, ends, 0);
            }
            self.now += MILLISECOND;
        }
        (gradient.limit(), took)
    }
}

#[test]
fn the_number_finds_what_a_service_can_do_and_follows_it() {
    let (settings, now) = (settings(), Instant::now());
    let mut gradient = Gradient::new(&settings, now);
    let mut service = Service { places: 20, work: 250 * MILLISECOND, now };
    let (limit, took) = service.flood(&mut gradient, &settings, Duration::from_secs(30));
    assert!((20..=40).contains(&limit), "{limit} at a service that does 20 at once");
    assert!(took < 2 * service.work, "requests take {took:?}");
    service.places = 5;
    let (limit, _) = service.flood(&mut gradient, &settings, Duration::from_secs(60));
    assert!((5..=12).contains(&limit), "{limit} at a service that does 5 at once by now");
}

#[test]
fn it_is_measured_with_few_first_and_then_again_after_its_time() {
    let (settings, now) = (settings(), Instant::now());
    let mut gradient = Gradient::new(&settings, now);
    let at = |gradient: &mut Gradient, after: Duration| {
        let now = now + after;
        gradient.look(&settings, now);
        gradient.ended(&settings, now, now + 10 * MILLISECOND, u64::MAX);
        gradient.limit()
    };
    for _ in 0..49 {
        assert_eq!(at(&mut gradient, Duration::ZERO), 3);
    }
    assert_eq!(at(&mut gradient, Duration::ZERO), 3, "now it is known");
    let second = |second| Duration::from_secs(second);
    let more: Vec<u32> = (1..=5).map(|number| at(&mut gradient, second(number))).collect();
    assert!(more.is_sorted() && more[4] > 15, "{more:?}");
    let before = at(&mut gradient, second(300));
    assert!(before > 15, "the next measurement is at most 15% later: {before}");
    assert_eq!(at(&mut gradient, second(346)), 3, "it is measured");
}

#[test]
fn what_is_said_of_the_time_is_not_measured_and_the_number_stays_within_its_bounds() {
    let settings = AdmissionSettings { best: BestTime::Fixed(10 * MILLISECOND), first: 5, least: 4, most: 9, ..settings() };
    let now = Instant::now();
    for (takes, wanted) in [(MILLISECOND, 9), (Duration::from_secs(1), 4)] {
        let mut gradient = Gradient::new(&settings, now);
        assert_eq!(gradient.limit(), 5);
        for second in 1..20 {
            let began = now + Duration::from_secs(second);
            gradient.ended(&settings, began, began + takes, 0);
            gradient.look(&settings, began + Duration::from_millis(990));
        }
        assert_eq!(gradient.limit(), wanted, "when requests take {takes:?}");
    }
}

#[test]
fn a_look_changes_it_by_no_more_than_a_half_or_twice_and_adds_a_root() {
    let settings = settings();
    for (took, expected) in [(1, 220), (125, 110), (250, 57), (10_000, 57)] {
        let got = next(100, 100 * MILLISECOND, took * MILLISECOND, &settings);
        assert!(got.abs_diff(expected) <= 6, "{got} after 100 when requests take {took} ms");
    }
}

#[test]
fn lengths_of_time_are_known_to_within_a_sixteenth() {
    let mut times = Times::default();
    assert_eq!(times.percentile(50.0), None);
    for time in 1..=1000 {
        times.add(time * MILLISECOND);
    }
    for (percentile, expected) in [(50.0, 500), (99.0, 990), (0.0, 1), (100.0, 1000)] {
        let got = times.percentile(percentile).unwrap().as_secs_f64() * 1000.0;
        let expected = f64::from(expected);
        assert!((got / expected - 1.0).abs() < 0.0625, "p{percentile} is {got} ms, not {expected}");
    }
    times.add(Duration::MAX);
    times.add(Duration::ZERO);
    assert_eq!(times.count(), 1002);
}

//! How long the answer to a request may take, by its route and by who has sent it, and what its endpoint is told of that.

use std::time::{Duration, Instant};

use ambit_model::{
    Reason,
    route::{Upstream as Forwarding, deadline},
};
use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::{Instant as Moment, sleep_until};

use super::arrival::{Arrival, Expiry};
use crate::compiled::HttpChain;

const EXPECTED: HeaderName = HeaderName::from_static(deadline::EXPECTED);
const CALL: HeaderName = HeaderName::from_static(deadline::CALL);
/// What a call is told whose time is over (`DEADLINE_EXCEEDED`).
const OVER: HeaderValue = HeaderValue::from_static("4");

/// How long the answer to a request may take. What a client says is a bound: it never makes longer what its route says.
#[derive(Debug, Clone, Copy)]
pub struct Deadline {
    /// By its route, from when it has come whole.
    pub route: Option<Duration>,
    /// By the proxy before this one, from then on too.
    pub expected: Option<Duration>,
    /// By the client of a call, from when it began.
    pub call: Option<Duration>,
    /// When that is.
    until: Option<Instant>,
    /// It is a call whose endpoint is told by the header of calls.
    tells: bool,
}

impl Deadline {
    /// Of a request whose head came so long ago, and which has come whole or has not. Calls have their deadline where their route asks for that,
    /// other requests where their chain does.
    pub fn of(
        http: &HttpChain,
        forwarding: &Forwarding,
        headers: &HeaderMap,
        is_call: bool,
        (age, whole): (Duration, bool),
    ) -> Self {
        let most = forwarding.calls.filter(|_| is_call);
        let route = match most {
            Some(most) => Some(most).filter(|most| !most.is_zero()),
            None => forwarding.timeout,
        };
        let expected = if http.deadlines { deadline::expected(headers) } else { None };
        // Who waits for a request that it still sends has not begun to count.
        let expected = expected.map(|time| if whole { time.saturating_sub(age) } else { time });
        let stream = forwarding.stream.as_deref().filter(|times| is_call && times.calls.is_some());
        let said = if most.is_some() || stream.is_some() { deadline::of_call(headers) } else { None };
        let of_stream = stream.and_then(|times| times.of_call(said));
        let call = of_stream.or(said.filter(|_| most.is_some()));
        let until = call.and_then(|time| Instant::now().checked_add(time.saturating_sub(age)));
        Self { route, expected, call, until, tells: most.is_some() || of_stream.is_some() }
    }

    /// The longest from when the request has come whole.
    pub fn limit(&self) -> Option<Duration> {
        [self.route, self.expected].into_iter().flatten().min()
    }

    /// Nobody waits any more, before an endpoint has been asked.
    pub fn is_over(&self) -> bool {
        self.expected.is_some_and(|time| time.is_zero()) || self.call_is_over()
    }

    /// Whether what is over is what the route gives. Only then its endpoint has taken too long: whoever waits for less time than that could
    /// otherwise have any endpoint ejected.
    pub fn is_of_route(&self) -> bool {
        !self.call_is_over() && self.limit() == self.route
    }

    fn call_is_over(&self) -> bool {
        self.until.is_some_and(|until| until <= Instant::now())
    }

    /// Completes when it is over; `None` where nothing ends it.
    pub fn expiry(&self, arrival: &Arrival) -> Option<Expiry> {
        let until = self.until.map(Moment::from_std);
        match (self.limit(), until) {
            (None, None) => None,
            (Some(limit), None) => Some(arrival.clone().expiry(limit)),
            (None, Some(until)) => Some(Box::pin(sleep_until(until))),
            (Some(limit), Some(until)) => {
                let arrival = arrival.clone();
                Some(Box::pin(async move {
                    tokio::select! {
                        () = arrival.after(limit) => {}
                        () = sleep_until(until) => {}
                    }
                }))
            }
        }
    }

    /// Tells an endpoint what is left of it, and no more than this one try may take, when the request has come whole so long ago. What a rule tells
    /// it stays where that is less.
    pub fn tell(&self, headers: &mut HeaderMap, of_try: Option<Duration>, passed: Duration) {
        let limit = self.limit().map(|limit| limit.saturating_sub(passed));
        let call = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        let Some(left) = [limit, call, of_try].into_iter().flatten().min() else { return };
        let milliseconds = deadline::milliseconds(left);
        let tells = match headers.contains_key(EXPECTED) {
            true => deadline::expected(headers).is_some_and(|said| said > Duration::from_millis(milliseconds)),
            // Who comes next is told what we were.
            false => self.expected.is_some(),
        };
        if tells {
            headers.insert(EXPECTED, HeaderValue::from(milliseconds));
        }
        if let Some(text) = self.tells.then(|| HeaderValue::from_str(&deadline::to_call(left)).ok()).flatten() {
            headers.insert(CALL, text);
        }
    }

    /// Has an answer of ours tell the client of a call that it was its own time that was over, or that of its stream, where that is so: of a server
    /// that is away it would ask again.
    pub fn answer(&self, reason: Reason, headers: &mut HeaderMap) -> bool {
        let own = match reason {
            Reason::RequestTimeout => self.call_is_over(),
            // As Envoy tells it of a stream that has lasted for too long, if it is a call.
            Reason::StreamTimeout => headers.contains_key("grpc-status"),
            _ => false,
        };
        if own {
            headers.insert("grpc-status", OVER);
        }
        own
    }
}

#[cfg(test)]
mod tests {
    use ambit_model::route::StreamTimes;

    use super::*;
    use crate::http::select;

    fn chain(deadlines: bool) -> HttpChain {
        HttpChain { deadlines, ..select::tests::chain() }
    }

    fn route(timeout: Option<u64>, calls: Option<u64>) -> Forwarding {
        Forwarding {
            clusters: Vec::new(),
            cluster_not_found: 503,
            path: None,
            host: None,
            timeout: timeout.map(Duration::from_secs),
            mirrors: Vec::new(),
            retry: None,
            calls: calls.map(Duration::from_secs),
            stream: None,
            hash: Vec::new(),
            upgrades: Vec::new(),
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    const NOW: (Duration, bool) = (Duration::ZERO, true);

    #[test]
    fn who_has_sent_a_request_makes_the_time_of_its_route_shorter_and_never_longer() {
        let said = headers(&[("x-envoy-expected-rq-timeout-ms", "5000"), ("grpc-timeout", "2S")]);
        for (deadlines, timeout, calls, call, limit, of_call) in [
            (false, None, None, false, None, None),
            (false, Some(9), None, true, Some(9), None),
            (true, None, None, false, Some(5), None),
            (true, Some(9), None, false, Some(5), None),
            (true, Some(3), None, false, Some(3), None),
            (false, None, Some(0), true, None, Some(2)),
            (false, Some(9), Some(1), true, Some(1), Some(2)),
            (false, Some(9), Some(0), false, Some(9), None),
        ] {
            let deadline = Deadline::of(&chain(deadlines), &route(timeout, calls), &said, call, NOW);
            let expected = (limit.map(Duration::from_secs), of_call.map(Duration::from_secs));
            assert_eq!((deadline.limit(), deadline.call), expected, "{deadlines} {timeout:?} {calls:?} {call}");
            assert!(!deadline.is_over());
        }
    }

    #[test]
    fn the_client_of_a_call_makes_its_stream_shorter_and_never_longer() {
        let said = headers(&[("grpc-timeout", "5S")]);
        for (calls, is_call, headers, call, longest) in [
            (Some(9), true, &said, Some(5), None),
            (Some(3), true, &said, Some(3), None),
            (Some(0), true, &said, Some(5), None),
            (Some(9), true, &HeaderMap::new(), None, Some(9)),
            (Some(9), false, &said, None, Some(9)),
            (None, true, &said, None, Some(9)),
        ] {
            let mut route = route(None, None);
            let times = StreamTimes { idle: None, longest: Some(Duration::from_secs(9)), calls: calls.map(Duration::from_secs) };
            route.stream = times.held();
            let deadline = Deadline::of(&chain(false), &route, headers, is_call, NOW);
            assert_eq!((deadline.call, deadline.limit()), (call.map(Duration::from_secs), None), "{calls:?} {is_call}");
            assert_eq!(times.longest_beside(deadline.call), longest.map(Duration::from_secs), "{calls:?} {is_call}");
            assert_eq!(deadline.tells, call.is_some());
        }
        let plain = Deadline::of(&chain(false), &route(None, None), &HeaderMap::new(), true, NOW);
        for (pairs, told) in [(&[("grpc-status", "14")][..], true), (&[][..], false)] {
            let mut answer = headers(pairs);
            assert_eq!(plain.answer(Reason::StreamTimeout, &mut answer), told, "{pairs:?}");
            assert_eq!(answer.get("grpc-status").is_some_and(|status| status == "4"), told);
        }
    }

    #[test]
    fn what_was_waited_for_before_is_over_before_an_endpoint_is_asked() {
        let age = Duration::from_secs(6);
        let said = headers(&[("x-envoy-expected-rq-timeout-ms", "5000")]);
        let over = |whole| Deadline::of(&chain(true), &route(None, None), &said, false, (age, whole)).is_over();
        assert!(over(true) && !over(false), "nobody counts while a request is sent");
        let said = headers(&[("grpc-timeout", "2S"), ("grpc-status", "14")]);
        let deadline = Deadline::of(&chain(true), &route(None, Some(0)), &said, true, (age, false));
        assert!(deadline.is_over());
        for (reason, status) in [(Reason::RequestTimeout, "4"), (Reason::UpstreamReset, "14")] {
            let mut answer = said.clone();
            assert_eq!(deadline.answer(reason, &mut answer), status == "4");
            assert_eq!(answer["grpc-status"], status);
        }
    }

    #[test]
    fn an_endpoint_is_told_what_is_left_of_it_at_each_try() {
        let told = |deadline: &Deadline, pairs: &[(&'static str, &'static str)], of_try: Option<u64>, passed: u64| {
            let mut headers = headers(pairs);
            deadline.tell(&mut headers, of_try.map(Duration::from_secs), Duration::from_secs(passed));
            let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap().to_owned());
            (text(EXPECTED), text(CALL))
        };
        let text = |text: &str| Some(text.to_owned());
        let of_route = [("x-envoy-expected-rq-timeout-ms", "9000")];
        let plain = Deadline::of(&chain(true), &route(Some(9), Some(9)), &HeaderMap::new(), false, NOW);
        assert_eq!(told(&plain, &of_route, None, 0), (text("9000"), None));
        assert_eq!(told(&plain, &of_route, None, 4), (text("5000"), None));
        assert_eq!(told(&plain, &of_route, Some(2), 4), (text("2000"), None));
        assert_eq!(told(&plain, &of_route, None, 10), (text("1"), None), "nothing would be no limit");
        assert_eq!(told(&plain, &[("x-envoy-expected-rq-timeout-ms", "soon")], None, 4), (text("soon"), None), "a rule's own");
        assert_eq!(told(&plain, &[], None, 0), (None, None), "nobody has asked for it");
        let said = headers(&[("x-envoy-expected-rq-timeout-ms", "5000")]);
        let by_proxy = Deadline::of(&chain(true), &route(None, None), &said, false, NOW);
        assert_eq!(told(&by_proxy, &[], None, 1), (text("4000"), None));
        let call = Deadline::of(&chain(false), &route(Some(9), Some(9)), &HeaderMap::new(), true, NOW);
        assert_eq!(told(&call, &of_route, None, 1), (text("8000"), text("8000m")));
        let by_client = Deadline::of(&chain(false), &route(None, Some(0)), &headers(&[("grpc-timeout", "1H")]), true, NOW);
        let (_, left) = told(&by_client, &[("grpc-timeout", "1H")], None, 0);
        let left: u64 = left.unwrap().trim_end_matches('m').parse().unwrap();
        assert!((3_000_000..=3_600_000).contains(&left), "{left}");
        assert_eq!(told(&by_client, &[], Some(3), 0), (None, text("3000m")));
    }
}

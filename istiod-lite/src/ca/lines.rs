//! How many lines about refusals are logged: so many that people see who is refused, and not so many that whoever wants to push the others
//! out of the log can. Pure: the time is given.

use std::collections::HashMap;

use tokio::time::Instant;

use super::limits::{Bucket, Rate, make_room};

/// Those who are remembered.
const MOST: usize = 1000;

/// What was logged lately, by who was refused.
#[derive(Debug)]
pub(super) struct Lines {
    rate: Rate,
    all: Bucket,
    each: HashMap<String, Bucket>,
    left_out: u64,
}

impl Lines {
    /// So many about `each`, and about `all` together.
    pub fn new(each: Rate, all: Rate, now: Instant) -> Self {
        Self { rate: each, all: Bucket::full(all, now), each: HashMap::new(), left_out: 0 }
    }

    /// Whether one more may be written about `who`; then how many were left out since the last one.
    pub fn may_write(&mut self, who: String, now: Instant) -> Option<u64> {
        make_room(&mut self.each, &who, MOST, now);
        let bucket = self.each.entry(who).or_insert_with(|| Bucket::full(self.rate, now));
        if bucket.wait(now).is_zero() && self.all.wait(now).is_zero() {
            bucket.take(now);
            self.all.take(now);
            return Some(std::mem::take(&mut self.left_out));
        }
        self.left_out += 1;
        None
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn who_is_refused_without_end_is_logged_now_and_then_with_how_many_were_left_out() {
        let now = Instant::now();
        let rate = |burst| Rate { burst, per_second: 1.0 };
        let mut lines = Lines::new(rate(3.0), rate(5.0), now);
        let mut write = |who: &str, now| lines.may_write(who.to_owned(), now);
        let greedy: Vec<_> = (0..100).map(|_| write("greedy", now)).collect();
        assert_eq!(greedy[..4], [Some(0), Some(0), Some(0), None]);
        assert_eq!(write("other", now), Some(97));
        assert_eq!((write("third", now), write("fourth", now)), (Some(0), None), "all together have a limit, too");
        let later = now + Duration::from_secs(2);
        assert_eq!((write("greedy", later), write("other", later)), (Some(1), Some(0)));
    }
}

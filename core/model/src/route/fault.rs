//! Faults that are put in the way of requests (`envoy.extensions.filters.http.fault.v3`).

use std::time::Duration;

use serde::Serialize;

use super::{HeaderMatch, RequestView, Share};

/// What is done to requests, so that it is seen how those who ask bear it. Both may hold: then the answer comes after the delay.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Fault {
    /// Only requests with these headers; all of them must hold.
    pub headers: Vec<HeaderMatch>,
    /// How long a share of them waits.
    pub delay: Option<(Duration, Share)>,
    /// What a share of them is answered with.
    pub abort: Option<Abort>,
    /// How many requests may suffer by it at once.
    pub most_active: Option<u32>,
}

/// An answer in place of the service's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Abort {
    /// Its status.
    pub status: u16,
    /// Its text.
    pub body: String,
    /// Who gets it.
    pub share: Share,
}

impl Fault {
    /// Whether the request is one of those that it may be done to. `active` are those who suffer now.
    #[must_use]
    pub fn concerns(&self, request: &RequestView<'_>, active: usize) -> bool {
        let may = self.delay.is_some() || self.abort.is_some();
        let room = self.most_active.is_none_or(|most| active < usize::try_from(most).unwrap_or(usize::MAX));
        may && room && self.headers.iter().all(|header| header.matches(request))
    }

    /// How long a request waits that this concerns; `random` decides.
    #[must_use]
    pub fn delays(&self, random: u64) -> Option<Duration> {
        self.delay.filter(|(delay, share)| !delay.is_zero() && share.takes(random)).map(|(delay, _)| delay)
    }

    /// What a request is answered with that this concerns; `random` decides.
    #[must_use]
    pub fn aborts(&self, random: u64) -> Option<&Abort> {
        self.abort.as_ref().filter(|abort| abort.share.takes(random))
    }

    /// What is done, in words.
    #[must_use]
    pub fn in_words(&self) -> Vec<String> {
        let delay = self.delay.map(|(delay, share)| format!("{} wait {delay:?}", share.in_words()));
        let abort = self.abort.as_ref().map(|abort| format!("{} are answered with {}", abort.share.in_words(), abort.status));
        delay.into_iter().chain(abort).collect()
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;
    use crate::route::{HeaderTest, StringMatch};

    fn request(headers: &HeaderMap) -> RequestView<'_> {
        RequestView { method: "GET", scheme: "http", authority: "shop", path_and_query: "/", headers }
    }

    fn only(name: &str, value: &str) -> HeaderMatch {
        HeaderMatch {
            name: name.into(),
            test: HeaderTest::Value(StringMatch::exact(value)),
            invert: false,
            missing_is_empty: false,
        }
    }

    #[test]
    fn a_fault_concerns_requests_with_all_its_headers_while_there_is_room() {
        let abort = Abort { status: 503, body: String::new(), share: Share::ALL };
        let headers = vec![only("x-fault", "on"), only("x-who", "me")];
        let fault = Fault { headers, abort: Some(abort), most_active: Some(2), ..Fault::default() };
        let mut map = HeaderMap::new();
        map.insert("x-fault", HeaderValue::from_static("on"));
        assert!(!fault.concerns(&request(&map), 0), "one header is missing");
        map.insert("x-who", HeaderValue::from_static("me"));
        assert!(fault.concerns(&request(&map), 1));
        assert!(!fault.concerns(&request(&map), 2), "as many suffer as may");
        assert!(!Fault::default().concerns(&request(&map), 0), "it does nothing");
    }

    #[test]
    fn delay_and_answer_are_drawn_each_for_itself() {
        let half = Share { taken: 50, of: 100 };
        let abort = Abort { status: 418, body: "tea".into(), share: half };
        let fault = Fault { delay: Some((Duration::from_secs(1), half)), abort: Some(abort), ..Fault::default() };
        assert_eq!((fault.delays(49), fault.delays(50)), (Some(Duration::from_secs(1)), None));
        assert_eq!((fault.aborts(149).map(|abort| abort.status), fault.aborts(99)), (Some(418), None));
        assert_eq!(fault.in_words(), ["50 of 100 wait 1s", "50 of 100 are answered with 418"]);
        let none = Fault { delay: Some((Duration::ZERO, Share::ALL)), ..Fault::default() };
        assert_eq!(none.delays(0), None, "no time is no delay");
    }
}

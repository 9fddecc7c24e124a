//! What is asked for next, decided without I/O: everything, and from where, or what has changed since.
//!
//! Lists come from the servers' caches wherever that takes nothing back that is known, so that a thousand agents that start, or whose API
//! server was away, ask its store for nothing. Rules:
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/#semantics-for-get-and-list>.

use kube::api::{ListParams, VersionMatch};

use super::failure::Failure;

/// How much of a list of the store is asked for at once.
const PAGE: u32 = 500;

/// Where a list comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum List {
    /// From the cache of the server, however old it is: for who knows nothing that it could take back.
    Cache,
    /// The same, and not older than what is known.
    CacheSince,
    /// From the store, or as new as that: the one list that may go back, because the store has.
    Store {
        /// In pages; all at once after a list whose later pages were forgotten before they were asked for.
        paged: bool,
    },
}

const STORE: List = List::Store { paged: true };

/// What is known of one kind, and what is asked for next.
#[derive(Debug)]
pub(super) struct Course {
    /// The newest version that was told of.
    known: Option<String>,
    list: List,
    /// Whether everything is known, so that changes are what is asked for.
    watching: bool,
}

impl Course {
    /// Nothing is known, or `holds` says that something was done by what was known once.
    pub(super) const fn new(holds: bool) -> Self {
        Self { known: None, list: if holds { STORE } else { List::Cache }, watching: false }
    }

    /// The version from which changes are asked for; nothing when everything is.
    pub(super) fn watched(&self) -> Option<&str> {
        self.known.as_deref().filter(|_| self.watching)
    }

    /// What is said with a request for everything, or for the first page of it.
    pub(super) fn ask(&self, fields: Option<&str>) -> ListParams {
        let all = ListParams { field_selector: fields.map(str::to_owned), ..ListParams::default() };
        // A server with a cache gives all of it at once; with a limit it would be asked for exactly that version, or not for its cache.
        let cached = |version: &str| ListParams {
            resource_version: Some(version.to_owned()),
            version_match: Some(VersionMatch::NotOlderThan),
            ..all.clone()
        };
        match (self.list, &self.known) {
            (List::Cache, _) => cached("0"),
            (List::CacheSince, Some(known)) => cached(known),
            (List::Store { paged: false }, _) => all,
            (List::CacheSince | List::Store { .. }, _) => ListParams { limit: Some(PAGE), ..all },
        }
    }

    /// Everything was told, at this version.
    ///
    /// # Errors
    /// When nothing can be gone on from there.
    pub(super) fn listed(&mut self, version: Option<String>) -> Result<(), Failure> {
        let version = version.filter(|version| !version.is_empty()).ok_or(Failure::NoVersion)?;
        if !matches!(self.list, List::Store { .. }) {
            self.not_older(&version)?;
        }
        (self.known, self.list, self.watching) = (Some(version), List::CacheSince, true);
        Ok(())
    }

    /// A change was told, or that there was none, at this version.
    ///
    /// # Errors
    /// When nothing can be gone on from there. The change is to be left alone then.
    pub(super) fn told(&mut self, version: Option<String>) -> Result<(), Failure> {
        let version = version.filter(|version| !version.is_empty()).ok_or(Failure::NoVersion)?;
        self.not_older(&version)?;
        self.known = Some(version);
        Ok(())
    }

    /// Versions are numbers that only grow, as long as the store is the same.
    fn not_older(&self, version: &str) -> Result<(), Failure> {
        let number = |version: &str| version.parse::<u64>().ok();
        match &self.known {
            Some(known) if number(version) < number(known) && number(version).is_some() => {
                Err(Failure::Older { told: version.to_owned(), known: known.clone() })
            }
            _ => Ok(()),
        }
    }

    /// Everything is to be asked for, because that is done now and then.
    pub(super) fn refresh(&mut self) {
        self.watching = false;
    }

    /// Everything is to be asked for as it is now, because what is known may be out of date.
    pub(super) fn doubt(&mut self) {
        (self.list, self.watching) = (STORE, false);
    }

    /// What is asked for after a failure.
    pub(super) fn failed(&mut self, failure: &Failure) {
        let watching = self.watching;
        if failure.is_expired() {
            self.watching = false;
            if !watching {
                self.list = List::Store { paged: self.list != STORE };
            }
        } else if failure.is_behind() || (failure.is_unreadable() && watching) {
            self.doubt();
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    fn refused(code: u16, message: &str) -> Failure {
        let status = Status { code, message: message.to_owned(), ..Status::default() };
        Failure::Client(kube::Error::Api(Box::new(status)))
    }

    /// A limit, a version, and how that is meant.
    fn asked(course: &Course) -> (Option<u32>, Option<String>, bool) {
        let ask = course.ask(Some("spec.nodeName=node-1"));
        assert_eq!(ask.field_selector.as_deref(), Some("spec.nodeName=node-1"));
        (ask.limit, ask.resource_version, ask.version_match == Some(VersionMatch::NotOlderThan))
    }

    fn version(version: &str) -> Option<String> {
        Some(version.to_owned())
    }

    fn known(at: &str) -> Course {
        let mut course = Course::new(false);
        course.listed(version(at)).unwrap();
        course
    }

    const FROM_STORE: (Option<u32>, Option<String>, bool) = (Some(PAGE), None, false);

    #[test]
    fn whoever_knows_nothing_asks_the_cache_unless_something_could_be_taken_back() {
        assert_eq!(asked(&Course::new(false)), (None, version("0"), true));
        assert_eq!(asked(&Course::new(true)), FROM_STORE);
        assert_eq!(Course::new(false).watched(), None);
    }

    #[test]
    fn a_cache_is_asked_for_nothing_older_than_what_is_known() {
        let mut course = known("7");
        assert_eq!(course.watched(), Some("7"));
        course.told(version("10")).unwrap();
        course.failed(&refused(410, "too old resource version"));
        assert_eq!(course.watched(), None);
        assert_eq!(asked(&course), (None, version("10"), true));
        // One that gives something older all the same is not believed, and the store is asked.
        let older = course.listed(version("9")).unwrap_err();
        course.failed(&older);
        assert_eq!(asked(&course), FROM_STORE);
        course.listed(version("9")).expect("the store itself has gone back");
        assert_eq!(course.watched(), Some("9"));
        course.refresh();
        assert_eq!(asked(&course), (None, version("9"), true));
    }

    #[test]
    fn a_server_that_is_behind_for_long_is_asked_for_what_its_store_has() {
        let told = refused(504, "Timeout: Too large resource version: 10, current: 9");
        let caused = r#"{"kind":"Status","code":504,"details":{"causes":[{"reason":"ResourceVersionTooLarge"}]}}"#;
        let caused = Failure::Refused(Box::new(serde_json::from_str(caused).unwrap()));
        for behind in [told, caused] {
            let mut course = known("10");
            course.refresh();
            course.failed(&behind);
            assert_eq!(asked(&course), FROM_STORE, "{behind:?}");
        }
        let mut course = known("10");
        course.refresh();
        course.failed(&refused(504, "the server was not able to return a response in the time allotted"));
        assert_eq!(asked(&course), (None, version("10"), true), "it may just be slow");
        let mut course = known("10");
        let older = course.told(version("9")).unwrap_err();
        course.failed(&older);
        assert_eq!((course.watched(), asked(&course)), (None, FROM_STORE));
    }

    #[test]
    fn a_list_whose_further_pages_are_forgotten_is_asked_for_without_pages_and_then_with_them_again() {
        let mut course = known("7");
        course.doubt();
        assert_eq!(asked(&course), FROM_STORE);
        course.failed(&refused(410, "The provided continue parameter is too old"));
        assert_eq!(asked(&course), (None, None, false));
        course.failed(&refused(410, "Expired"));
        assert_eq!(asked(&course), FROM_STORE);
    }

    #[test]
    fn a_failure_that_says_nothing_of_the_version_leaves_what_is_asked() {
        let mut course = known("7");
        for failure in
            [Failure::Short, Failure::Silent(std::time::Duration::ZERO), refused(403, "forbidden"), refused(500, "etcd")]
        {
            course.failed(&failure);
            assert_eq!(course.watched(), Some("7"), "{failure:?}");
        }
        course.failed(&refused(400, "Invalid value"));
        assert_eq!((course.watched(), asked(&course)), (None, FROM_STORE), "it would be refused for ever");
        let mut course = Course::new(false);
        assert!(matches!(course.listed(version("")), Err(Failure::NoVersion)));
        course.failed(&Failure::NoVersion);
        assert_eq!(asked(&course), (None, version("0"), true));
    }
}

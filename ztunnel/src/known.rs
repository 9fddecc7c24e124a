//! What is known of a pod, looked up once for each change of the state and not for each connection.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ambit_model::workload::Workload;
use http::HeaderValue;

/// The workload of a pod as it was last seen, with what is derived from it.
#[derive(Debug, Default)]
pub struct Known(Mutex<Option<Seen>>);

#[derive(Debug)]
struct Seen {
    /// The version of the state.
    version: u64,
    workload: Arc<Workload>,
    baggage: Option<HeaderValue>,
}

impl Known {
    fn seen(&self) -> MutexGuard<'_, Option<Seen>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The workload in this version of the state, by `find` if it is not known. What is not found is asked for again.
    pub(crate) fn workload(&self, version: u64, find: impl FnOnce() -> Option<Arc<Workload>>) -> Option<Arc<Workload>> {
        let mut seen = self.seen();
        if let Some(seen) = seen.as_ref().filter(|seen| seen.version == version) {
            return Some(Arc::clone(&seen.workload));
        }
        let workload = find()?;
        match seen.as_mut().filter(|seen| Arc::ptr_eq(&seen.workload, &workload)) {
            Some(seen) => seen.version = version,
            None => *seen = Some(Seen { version, workload: Arc::clone(&workload), baggage: None }),
        }
        Some(workload)
    }

    /// The header that `write` makes of `workload`, which is the pod's; nothing when it cannot be a header.
    pub(crate) fn baggage(&self, workload: &Arc<Workload>, write: impl FnOnce(&Workload) -> String) -> Option<HeaderValue> {
        let mut seen = self.seen();
        let seen = seen.as_mut().filter(|seen| Arc::ptr_eq(&seen.workload, workload));
        if let Some(baggage) = seen.as_ref().and_then(|seen| seen.baggage.clone()) {
            return Some(baggage);
        }
        let baggage = HeaderValue::from_str(&write(workload)).ok();
        if let Some(seen) = seen {
            seen.baggage.clone_from(&baggage);
        }
        baggage
    }
}

#[cfg(test)]
mod tests {
    use ambit_api::workload as wire;

    use super::*;

    fn web() -> Arc<Workload> {
        let web = wire::Workload { uid: "web".into(), namespace: "shop".into(), ..Default::default() };
        Arc::new(web.try_into().unwrap())
    }

    #[test]
    fn a_workload_is_looked_up_once_for_each_version() {
        let known = Known::default();
        let (first, second) = (web(), web());
        assert!(known.workload(1, || None).is_none());
        assert!(Arc::ptr_eq(&known.workload(1, || Some(Arc::clone(&first))).unwrap(), &first));
        assert!(Arc::ptr_eq(&known.workload(1, || panic!("it is known")).unwrap(), &first));
        assert_eq!(known.baggage(&first, |_| "a=1".to_owned()).unwrap(), "a=1");
        assert!(known.workload(2, || Some(Arc::clone(&first))).is_some());
        assert_eq!(known.baggage(&first, |_| panic!("it is written")).unwrap(), "a=1");
        assert!(Arc::ptr_eq(&known.workload(3, || Some(Arc::clone(&second))).unwrap(), &second));
        assert_eq!(known.baggage(&second, |_| "a=2".to_owned()).unwrap(), "a=2");
        assert_eq!(known.baggage(&first, |_| "a=3".to_owned()).unwrap(), "a=3");
        assert_eq!(known.baggage(&second, |_| panic!("it is written")).unwrap(), "a=2");
    }
}

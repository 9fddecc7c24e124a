//! The thread to which workers hand bulk, so that small requests do not wait behind it.

use std::{sync::OnceLock, thread, time::Duration};

use ambit_hbone::aside;
use ambit_runtime::{sys, workers::Thread};
use tokio::runtime::Handle;

/// The thread that carries bulk of all workers, started when there is some beside small requests.
#[derive(Debug, Default)]
pub(crate) struct Bulk(OnceLock<Option<Thread>>);

impl Bulk {
    /// Its runtime. None when it cannot be started: then each worker keeps its bulk.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        let thread = self.0.get_or_init(|| match Thread::start(thread::Builder::new().name("bulk".to_owned()), Duration::ZERO) {
            Ok(thread) => {
                thread.handle().spawn(async {
                    aside::carry_bulk_here();
                    if let Err(error) = sys::run_behind() {
                        tracing::debug!(%error, "bulk has its share of the processors as everything else");
                    }
                });
                Some(thread)
            }
            Err(error) => {
                tracing::warn!(%error, "no thread for bulk can be started: small requests wait behind it");
                None
            }
        });
        thread.as_ref().map(|thread| thread.handle().clone())
    }

    pub(crate) fn stop(&self) {
        if let Some(Some(thread)) = self.0.get() {
            thread.stop();
        }
    }
}

/// While bulk of a worker is on the thread for that, what is left are small requests: it is the next to run when it wakes for them.
pub(crate) fn run_soon(soon: bool) {
    if let Err(error) = sys::run_soon(soon) {
        tracing::debug!(%error, "a worker waits for the processor as everything else");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name of the calling thread, and how nice it is.
    fn which() -> (Option<String>, i32) {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        // proc_pid_stat(5): its 19th field, the third is the first behind the name.
        let nice = stat.rsplit(')').next().unwrap().split_whitespace().nth(16).unwrap().parse().unwrap();
        (thread::current().name().map(str::to_owned), nice)
    }

    #[tokio::test]
    async fn bulk_has_one_thread_which_is_nicer_than_the_others() {
        let bulk = Bulk::default();
        let (_, nice) = which();
        for _ in 0..2 {
            let (name, nicer) = bulk.runtime().unwrap().spawn(async { which() }).await.unwrap();
            assert_eq!(name.as_deref(), Some("bulk"));
            assert!(nicer > nice || nice == 19, "{nicer} and {nice}");
        }
        bulk.stop();
    }
}

//! Tests as the suites on namespaces have them: programs without the standard harness, because each enters its bed before any thread is started.

use libtest_mimic::{Failed, Trial};

use crate::Families;

/// A test on a runtime of its own. Its name is a sentence.
pub fn test(name: &str, body: impl AsyncFnOnce() -> anyhow::Result<()> + Send + 'static) -> Trial {
    Trial::test(name, move || {
        let runtime = tokio::runtime::Runtime::new()?;
        runtime.block_on(body()).map_err(|error| Failed::from(format!("{error:?}")))
    })
}

/// A test on a runtime of its own, in a mesh of these families. Its name is a sentence.
pub fn over(families: Families, name: &str, body: impl AsyncFnOnce(Families) -> anyhow::Result<()> + Send + 'static) -> Trial {
    test(&families.title(name), async move || body(families).await)
}

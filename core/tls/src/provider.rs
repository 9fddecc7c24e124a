//! The cryptography: aws-lc-rs, TLS 1.3 with AES-GCM only.

use std::{
    sync::{Arc, LazyLock},
    thread,
};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256, aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384],
        ..aws_lc_rs::default_provider()
    })
});

/// The one crypto provider of the mesh: AES-GCM suites of TLS 1.3, AES-128 first because both are strong enough and it is cheaper.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Has a thread make the source of random numbers ready. Before it gives the first one, the library gathers noise of the processor for
/// some 20 ms: a program that starts does something else meanwhile, and only who needs a random number before waits.
pub fn prepare() {
    let first = || {
        // Whoever needs one is told when there are none.
        let _filled = provider().secure_random.fill(&mut [0; 1]);
    };
    if let Err(error) = thread::Builder::new().name("random".to_owned()).spawn(first) {
        tracing::debug!(%error, "random numbers are made ready when they are needed");
    }
}

//! Questions to the API server from its own network namespace.

use std::path::PathBuf;

use ambit_testbed::Place;
use kube::Client;

use crate::api_server::client_of;
use crate::error::{Error, Result};

/// Asks with a client that lives in the namespace of `place`: all its sockets are made by one thread, which enters it for that.
pub(super) async fn ask<T: Send + 'static>(
    place: &Place,
    kubeconfig: PathBuf,
    question: impl AsyncFnOnce(Client) -> kube::Result<T> + Send + 'static,
) -> Result<T> {
    let netns = place.netns().clone();
    let work = move || {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::io("starting a runtime"))?;
        runtime.block_on(async {
            let answer = question(client_of(&kubeconfig).await?).await;
            answer.map_err(|cause| Error::Api { doing: "asking the API server".to_owned(), cause: Box::new(cause) })
        })
    };
    let entered = tokio::task::spawn_blocking(move || netns.run(work)).await;
    let entered = entered.map_err(|error| Error::failed("asking the API server", error))?;
    entered.map_err(Error::io("entering the network namespace of the control plane"))?
}

//! The question to the API server.

use ambit_tls::token::AUDIENCE;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::{Api, api::PostParams};

use super::{Review, verdict};
use crate::ca::{Caller, TokenError};

/// Asks the API server (`create` on `tokenreviews.authentication.k8s.io`).
#[derive(Clone)]
pub struct Reviewer {
    api: Api<TokenReview>,
}

impl Reviewer {
    /// With this way to it.
    #[must_use]
    pub fn new(client: kube::Client) -> Self {
        Self { api: Api::all(client) }
    }
}

#[async_trait::async_trait]
impl Review for Reviewer {
    async fn review(&self, token: &str) -> Result<Caller, TokenError> {
        let spec = TokenReviewSpec { audiences: Some(vec![AUDIENCE.to_owned()]), token: Some(token.to_owned()) };
        let review = TokenReview { spec, ..TokenReview::default() };
        // Its errors may quote what was sent, but what was sent is in the body, which they do not.
        let answer = self.api.create(&PostParams::default(), &review).await;
        let answer =
            answer.map_err(|error| TokenError::Unavailable(format!("the API server does not answer a TokenReview: {error}")))?;
        let Some(status) = answer.status else {
            return Err(TokenError::Unavailable("the API server answered a TokenReview without a status".to_owned()));
        };
        verdict::caller(status).map_err(TokenError::Refused)
    }
}

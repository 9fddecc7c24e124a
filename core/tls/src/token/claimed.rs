//! What a token says of itself, before anybody has looked whether it is true.

use serde::Deserialize;

use super::one_or_many;

/// Claims that nobody has verified. Good for refusing early, for saying in a log whom a refused caller gave itself out as, and for forgetting
/// an answer about the token in time; never for letting anybody in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub struct Claimed {
    /// Whom it claims to speak for; empty when it does not say.
    #[serde(default)]
    pub sub: String,
    /// Whom it is meant for.
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    /// End of validity, seconds since 1970; 0 when it does not say.
    #[serde(default)]
    pub exp: u64,
}

impl Claimed {
    /// Reads the claims of a JWT; `None` when the text is none.
    #[must_use]
    pub fn read(token: &str) -> Option<Self> {
        jsonwebtoken::dangerous::insecure_decode_claims(token).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::token::{AUDIENCE, Bound, Claimed, Claims, ObjectReference, Signer};

    #[test]
    fn the_claims_of_a_token_are_read_without_its_key_and_of_anything_else_there_are_none() {
        let bound =
            Bound { namespace: "shop".parse().unwrap(), pod: None, serviceaccount: ObjectReference::new("web", ""), node: None };
        let claims = Claims::new(&[AUDIENCE], bound, Duration::from_mins(10));
        let token = Signer::create().unwrap().sign(&claims).unwrap();
        let read = Claimed::read(&token).unwrap();
        assert_eq!(read, Claimed { sub: claims.sub, aud: claims.aud, exp: claims.exp });
        for text in ["", "a.b", "a.b.c", "....", &token[..token.len() / 2]] {
            assert_eq!(Claimed::read(text), None, "{text:?}");
        }
    }
}

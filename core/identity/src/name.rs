//! The parts of an identity. Cloning one is a reference count.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::IdentityError;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $part:literal, $limit:literal, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `text` and keeps it.
            ///
            /// # Errors
            /// When the text is empty, too long, or has a character that is not allowed.
            pub fn new(text: impl AsRef<str>) -> Result<Self, IdentityError> {
                let text = text.as_ref();
                if text.is_empty() {
                    return Err(IdentityError::Empty { part: $part });
                }
                if text.len() > $limit {
                    return Err(IdentityError::TooLong { part: $part, length: text.len(), limit: $limit });
                }
                // SPIFFE-ID, section 2.2: no part of a path is a step in it.
                if matches!(text, "." | "..") {
                    return Err(IdentityError::Character { part: $part, character: '.' });
                }
                let allowed: fn(char) -> bool = $allowed;
                match text.chars().find(|c| !allowed(*c)) {
                    Some(character) => Err(IdentityError::Character { part: $part, character }),
                    None => Ok(Self(text.into())),
                }
            }

            /// The text itself.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }

            /// Whether there is a clone of it somewhere.
            #[must_use]
            pub fn is_shared(&self) -> bool {
                Arc::strong_count(&self.0) > 1
            }
        }

        impl FromStr for $name {
            type Err = IdentityError;
            fn from_str(text: &str) -> Result<Self, IdentityError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdentityError;
            fn try_from(text: String) -> Result<Self, IdentityError> {
                Self::new(text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }
    };
}

name!(
    /// The root of trust an identity belongs to (SPIFFE-ID, section 2.1: lower case letters, digits, `.`, `-`, `_`).
    TrustDomain,
    "trust domain",
    255,
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_')
);
name!(
    /// A Kubernetes namespace (an RFC 1123 label).
    Namespace,
    "namespace",
    63,
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-'
);
name!(
    /// A Kubernetes service account (an RFC 1123 subdomain).
    ServiceAccount,
    "service account",
    253,
    |c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.')
);

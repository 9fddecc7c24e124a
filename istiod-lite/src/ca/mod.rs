//! The certificate service and its rules.

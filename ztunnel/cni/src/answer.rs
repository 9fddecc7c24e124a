//! What the plugin prints (CNI specification 1.1, sections 2 and 5).

use serde_json::json;

/// Versions of the specification whose results can be passed through: from 0.3.0 on a chain hands them from plugin to plugin.
pub const SUPPORTED: [&str; 5] = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// What is printed, and the status of the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// For standard output.
    pub printed: String,
    /// 0 when the runtime may go on.
    pub status: u8,
}

/// Why the runtime may not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The code of the specification.
    pub code: u32,
    /// For whoever looks why the pod does not start.
    pub message: String,
}

impl Failure {
    const VERSION: u32 = 1;
    const ENVIRONMENT: u32 = 4;
    const DECODE: u32 = 6;
    const CONFIGURATION: u32 = 7;
    const LATER: u32 = 11;
    const NOT_AVAILABLE: u32 = 50;
    /// The first code that plugins may give a meaning: the agent refuses.
    const REFUSED: u32 = 100;

    fn new(code: u32, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// A version that is not supported.
    #[must_use]
    pub fn version(version: &str) -> Self {
        Self::new(Self::VERSION, format!("version {version} is not one of {}", SUPPORTED.join(", ")))
    }

    /// An environment variable that is missing or wrong.
    #[must_use]
    pub fn environment(message: impl Into<String>) -> Self {
        Self::new(Self::ENVIRONMENT, message)
    }

    /// A configuration that is no JSON.
    #[must_use]
    pub fn decode(message: impl Into<String>) -> Self {
        Self::new(Self::DECODE, message)
    }

    /// A configuration without a plugin before this one.
    #[must_use]
    pub fn alone() -> Self {
        Self::new(Self::CONFIGURATION, "there is no prevResult: this plugin has to follow the one that makes the pod's network")
    }

    /// The agent does not answer.
    #[must_use]
    pub fn away(message: impl Into<String>) -> Self {
        Self::new(Self::LATER, message)
    }

    /// The agent says no.
    #[must_use]
    pub fn refused(message: impl Into<String>) -> Self {
        Self::new(Self::REFUSED, message)
    }

    /// The same as an answer to STATUS.
    #[must_use]
    pub fn not_available(self) -> Self {
        Self::new(Self::NOT_AVAILABLE, self.message)
    }

    /// What is printed of it.
    #[must_use]
    pub fn answer(self, version: &str) -> Answer {
        let error = json!({ "cniVersion": version, "code": self.code, "msg": self.message, "details": "" });
        Answer { printed: error.to_string(), status: 1 }
    }
}

/// The answer to VERSION.
#[must_use]
pub fn versions(version: &str) -> String {
    json!({ "cniVersion": version, "supportedVersions": SUPPORTED }).to_string()
}

//! The demonstration's manifests, carried in the program and copied to a directory of the user's choice.

use std::path::Path;

use crate::error::{Error, Result};

macro_rules! files {
    ($($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../../../manifests/demo/", $name)))),+]
    };
}

/// Name and content of each file.
pub const FILES: [(&str, &str); 8] = files![
    "10-data.yaml",
    "20-shop.yaml",
    "30-billing.yaml",
    "40-billing-route.yaml",
    "50-client.yaml",
    "60-ledger.yaml",
    "deny-billing.yaml.off",
    "deny-web.yaml.off",
];

/// Writes the files that are not there yet, so that what the user changed stays.
///
/// # Errors
/// If the directory or a file cannot be written.
pub fn copy_to(directory: &Path) -> Result<()> {
    std::fs::create_dir_all(directory).map_err(|cause| Error::path("making", directory, cause))?;
    for (name, text) in FILES {
        let path = directory.join(name);
        let enabled = directory.join(name.trim_end_matches(".off"));
        if !path.exists() && !enabled.exists() {
            std::fs::write(&path, text).map_err(|cause| Error::path("writing", &path, cause))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_demonstration_is_carried() {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
        let mut there: Vec<String> =
            std::fs::read_dir(source).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        there.sort();
        assert_eq!(there, FILES.map(|(name, _)| name.to_owned()));
    }

    #[test]
    fn what_the_user_changed_stays() {
        let dir = tempfile::tempdir().unwrap();
        copy_to(dir.path()).unwrap();
        std::fs::write(dir.path().join("10-data.yaml"), "mine").unwrap();
        std::fs::rename(dir.path().join("deny-web.yaml.off"), dir.path().join("deny-web.yaml")).unwrap();
        copy_to(dir.path()).unwrap();
        assert_eq!(std::fs::read_to_string(dir.path().join("10-data.yaml")).unwrap(), "mine");
        assert!(!dir.path().join("deny-web.yaml.off").exists());
    }
}

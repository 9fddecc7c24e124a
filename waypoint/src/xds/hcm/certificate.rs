//! Whether requests say who their client is (`x-forwarded-client-cert`).
//!
//! Envoy knows the client of a tunnel by what `connect_terminate` keeps of it, and writes it into requests before anything looks at them. That
//! one way of doing it is understood, and that nothing is said of clients, which is Envoy's default.

use std::mem::take;

use ambit_api::envoy::pb::envoy::{
    config::{
        common::mutation_rules::v3::{HeaderMutation as Change, header_mutation::Action},
        core::v3::{HeaderValue, HeaderValueOption, header_value_option::HeaderAppendAction},
    },
    extensions::{
        filters::network::http_connection_manager::v3::{
            HttpConnectionManager, http_connection_manager::ForwardClientCertDetails as Details,
        },
        http::early_header_mutation::header_mutation::v3::HeaderMutation as EarlyChanges,
    },
};

use crate::xds::{
    read::{Compiled, Problem, Under, required, unpack},
    state,
};

const EARLY: &str = "envoy.extensions.http.early_header_mutation.header_mutation.v3.HeaderMutation";
const HEADER: &str = "x-forwarded-client-cert";

/// Takes out of a connection manager what it says of that.
pub fn told(config: &mut HttpConnectionManager) -> Compiled<bool> {
    let details = Details::try_from(take(&mut config.forward_client_cert_details));
    let mut extensions = take(&mut config.early_header_mutation_extensions);
    let told = match (extensions.pop(), extensions.is_empty()) {
        (None, _) => false,
        (Some(only), true) => {
            let any = required(only.typed_config, "typed_config").under(&only.name)?;
            if unpack::<EarlyChanges>(&any, EARLY).under(&only.name)? != changes() {
                let text = format!("changes other than that {HEADER} is taken out and set are not implemented");
                return Err(Problem::new(text).under(only.name));
            }
            true
        }
        (Some(_), false) => {
            return Err(Problem::new("more than one of early_header_mutation_extensions is not implemented"));
        }
    };
    match (details, told) {
        (Ok(Details::Sanitize), false) | (Ok(Details::AlwaysForwardOnly), true) => Ok(told),
        // What a client says of itself would be passed on, or what is said of it here would not be.
        (Ok(other), _) => Err(Problem::new(format!(
            "forward_client_cert_details {} is not implemented {} early_header_mutation_extensions",
            other.as_str_name(),
            if told { "with" } else { "without" },
        ))),
        (Err(_), _) => Err(Problem::new("forward_client_cert_details is not implemented")),
    }
}

/// What the client has written is taken out, and what is known of it set in its place.
fn changes() -> EarlyChanges {
    let header = HeaderValue {
        key: HEADER.into(),
        value: format!("%FILTER_STATE({}:PLAIN)%", state::CLIENT_CERTIFICATE),
        ..Default::default()
    };
    let set = HeaderValueOption {
        header: Some(header),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..Default::default()
    };
    let actions = [Action::Remove(HEADER.into()), Action::Append(set)];
    EarlyChanges { mutations: actions.map(|action| Change { action: Some(action) }).into() }
}

#[cfg(test)]
mod tests {
    use ambit_api::envoy::pb::{envoy::config::core::v3::TypedExtensionConfig, google::protobuf::Any};
    use prost::Message;

    use super::*;

    fn of(changes: &EarlyChanges) -> TypedExtensionConfig {
        let typed_config = Some(Any { type_url: format!("x/{EARLY}"), value: changes.encode_to_vec() });
        TypedExtensionConfig { name: "early".into(), typed_config }
    }

    fn read(details: Details, extensions: &[TypedExtensionConfig]) -> Result<bool, String> {
        let mut config = HttpConnectionManager {
            forward_client_cert_details: details as i32,
            early_header_mutation_extensions: extensions.to_vec(),
            ..Default::default()
        };
        let told = told(&mut config).map_err(|problem| problem.to_string())?;
        assert_eq!(config, HttpConnectionManager::default(), "nothing is left that is said of it");
        Ok(told)
    }

    #[test]
    fn that_requests_say_who_their_client_is_is_understood_and_nothing_that_a_client_could_forge() {
        assert_eq!(read(Details::Sanitize, &[]), Ok(false));
        assert_eq!(read(Details::AlwaysForwardOnly, &[of(&changes())]), Ok(true));
        for (details, extensions, words) in [
            (Details::AlwaysForwardOnly, vec![], "ALWAYS_FORWARD_ONLY is not implemented without"),
            (Details::ForwardOnly, vec![], "FORWARD_ONLY is not implemented without"),
            (Details::SanitizeSet, vec![of(&changes())], "SANITIZE_SET is not implemented with"),
            (Details::Sanitize, vec![of(&changes())], "SANITIZE is not implemented with"),
            (Details::AlwaysForwardOnly, vec![of(&changes()); 2], "more than one"),
        ] {
            let problem = read(details, &extensions).unwrap_err();
            assert!(problem.contains(words), "{problem}");
        }
        let mut kept = changes();
        kept.mutations.remove(0);
        let mut another = changes();
        another.mutations[0].action = Some(Action::Remove("x-other".into()));
        for changed in [EarlyChanges::default(), kept, another] {
            let problem = read(Details::AlwaysForwardOnly, &[of(&changed)]).unwrap_err();
            assert!(problem.contains("early: changes other than"), "{problem}");
        }
    }
}

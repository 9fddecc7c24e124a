//! Secrets: certificates for clients outside of the mesh. What is wrong with one is said without anything of its key.

use ambit_api::envoy::pb::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret, secret::Type},
};
use ambit_tls::Served;

use super::read::{Compiled, Problem, Under, finish, required};

/// A certificate with its key.
pub fn secret(mut secret: Secret) -> Compiled<Served> {
    secret.name.clear();
    let Some(Type::TlsCertificate(mut pair)) = secret.r#type.take() else {
        return Err(Problem::new("only tls_certificate is implemented"));
    };
    finish(&secret)?;
    let certificate = bytes(pair.certificate_chain.take()).under("tls_certificate.certificate_chain")?;
    let key = bytes(pair.private_key.take()).under("tls_certificate.private_key")?;
    // Of anything else that is set the name is told, and its text may be told anybody: the key is not in it any more.
    finish(&pair).under("tls_certificate")?;
    Served::from_pem(&certificate, &key).map_err(|error| Problem::new(error.to_string()).under("tls_certificate"))
}

fn bytes(source: Option<DataSource>) -> Compiled<Vec<u8>> {
    let mut source = required(source, "a source")?;
    let bytes = match source.specifier.take() {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        Some(Specifier::InlineString(text)) => text.into_bytes(),
        _ => return Err(Problem::new("only inline_bytes and inline_string are implemented")),
    };
    finish(&source)?;
    Ok(bytes)
}

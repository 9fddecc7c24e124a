//! Command line of the demonstration programs.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, ValueEnum};

use crate::error::Error;

/// What a demonstration program does for the business.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Steady load of people buying things.
    Client,
    /// The shop's web pages.
    Web,
    /// The shop's API behind the pages.
    Api,
    /// Takes orders.
    Orders,
    /// Writes invoices.
    Billing,
    /// Says who may do what (gRPC).
    Permissions,
    /// Tells people what happened (gRPC).
    Notifications,
    /// Keeps everybody's records.
    Storage,
}

impl Role {
    /// The role as written on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }
}

/// A program that another one calls: `name=http://host:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DownstreamArg {
    /// Role of the program called.
    pub name: String,
    /// Host, to be resolved at each connection.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl FromStr for DownstreamArg {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::Invalid(format!("`{text}` is not name=http://host:port"));
        let (name, url) = text.split_once('=').ok_or_else(wrong)?;
        let authority = url.strip_prefix("http://").ok_or_else(wrong)?.trim_end_matches('/');
        let (host, port) = authority.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().map_err(|_| wrong())?;
        if name.is_empty() || host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { name: name.to_owned(), host: host.trim_matches(['[', ']']).to_owned(), port })
    }
}

/// Runs one program of the demonstration system.
#[derive(Debug, Clone, Args)]
#[command(after_help = "Example:\n  ambit demo orders --listen '[::]:8080' --downstream storage=http://storage.data:8080")]
pub struct DemoArgs {
    /// Which program
    #[arg(value_enum)]
    pub role: Role,
    /// Name in answers (the role by default)
    #[arg(long)]
    pub name: Option<String>,
    /// Version in answers
    #[arg(long = "as-version", default_value = "v1")]
    pub version: String,
    /// Address to serve on
    #[arg(long, default_value = "[::]:8080")]
    pub listen: SocketAddr,
    /// A program to call, as name=http://host:port (repeatable)
    #[arg(long = "downstream")]
    pub downstreams: Vec<DownstreamArg>,
    /// Purchases per second that the client makes
    #[arg(long, default_value_t = 20.0)]
    pub rate: f64,
    /// Unix socket on which to tell what this program sees of those it calls; without one it is printed each second
    #[arg(long, env = "AMBIT_DEMO_STATS")]
    pub stats: Option<PathBuf>,
}

impl DemoArgs {
    /// Name in answers.
    pub fn name(&self) -> String {
        self.name.clone().unwrap_or_else(|| self.role.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_downstream_is_a_name_and_a_plain_http_authority() {
        let arg: DownstreamArg = "orders=http://orders.shop:8080".parse().unwrap();
        assert_eq!(arg, DownstreamArg { name: "orders".into(), host: "orders.shop".into(), port: 8080 });
        let v6: DownstreamArg = "orders=http://[fd96::1]:80/".parse().unwrap();
        assert_eq!((v6.host.as_str(), v6.port), ("fd96::1", 80));
        for wrong in ["orders", "orders=orders:80", "orders=http://orders", "=http://a:1", "a=http://:1", "a=http://b:x"] {
            assert!(wrong.parse::<DownstreamArg>().is_err(), "{wrong}");
        }
    }
}

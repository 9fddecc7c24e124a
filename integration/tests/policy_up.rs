//! What a person sees of a refusal: `ambit up` on the demonstration with a caller denied, as a document and as a table.

use std::{
    path::Path,
    process::{Command, ExitCode},
};

use ambit_integration::{suite::program, test};
use anyhow::{Context, ensure};
use serde_json::Value;

/// A policy for a service whose name is misspelt.
const MISTAKE: &str = "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: mistake, namespace: billing}
spec: {targetRefs: [{group: '', kind: Service, name: biling}], action: DENY, rules: [{}]}
";

fn main() -> ExitCode {
    ambit_integration::run_here(vec![
        test("a caller denied at L4 is the one edge with errors, refused with reason and policy by both ends", connections),
        test("a request denied at L7 shows the waypoint's reason and policy, and a policy for nothing is told of", requests),
        test("the table in plain text shows reason and policy of a refusal", table),
    ])
}

/// Runs `ambit up` on the demonstration with these of its policies enabled and this YAML added, and gives what it printed.
fn up(enabled: &[&str], added: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let directory = tempfile::tempdir()?;
    let demonstration = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
    for entry in demonstration.read_dir()? {
        let file = entry?.file_name().into_string().map_err(|name| anyhow::anyhow!("{name:?}"))?;
        let name = file.strip_suffix(".off").filter(|name| enabled.contains(name)).unwrap_or(&file);
        std::fs::copy(demonstration.join(&file), directory.path().join(name))?;
    }
    std::fs::write(directory.path().join("90-added.yaml"), added)?;
    let mut command = Command::new(program()?);
    let output = command.arg("up").arg("--dir").arg(directory.path()).args(arguments).output()?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(output.status.success(), "{}: {}\n{text}", output.status, String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

fn edges(document: &str) -> anyhow::Result<Vec<Value>> {
    let document: Value = serde_json::from_str(document).with_context(|| document.to_owned())?;
    Ok(document["edges"].as_array().context("edges")?.clone())
}

fn edge<'a>(edges: &'a [Value], source: &str, destination: &str) -> anyhow::Result<&'a Value> {
    let found = edges.iter().find(|edge| edge["source"] == source && edge["destination"] == destination);
    found.with_context(|| format!("no edge {source} -> {destination} in {edges:#?}"))
}

async fn connections() -> anyhow::Result<()> {
    let edges = edges(&up(&["deny-web.yaml"], "", &["--for", "8s", "--json"])?)?;
    let denied = edge(&edges, "shop/web", "shop/api")?;
    let (requests, errors) = (denied["requests"].as_u64().unwrap_or(0), denied["errors"].as_u64().unwrap_or(0));
    ensure!(errors > 20 && errors == requests, "{errors} of {requests} failed");
    let refusal = &denied["refusal"];
    ensure!(refusal["reason"] == "policy_denied_explicit" && refusal["policy"] == "shop/no-web", "{refusal}");
    ensure!(refusal["seen_by"] == serde_json::json!(["ztunnel/node-1", "ztunnel/node-2"]), "{refusal}");
    ensure!(refusal["by"] == "ztunnel/node-2", "the end that decided is the server's: {refusal}");
    ensure!(refusal["detail"].as_str().is_some_and(|text| text.contains("shop/no-web, rules[0]")), "{refusal}");
    for edge in &edges {
        // The caller of the one that is denied has nothing to answer with.
        let suffers = edge == denied || (edge["source"] == "shop/client" && edge["destination"] == "shop/web");
        ensure!(suffers || edge["errors"] == 0, "{edge:#}");
        ensure!(edge == denied || edge["refusal"].is_null(), "{edge:#}");
    }
    ensure!(edge(&edges, "ledger/auditor", "ledger/ledger")?["requests"].as_u64() > Some(0), "nothing else went on");
    Ok(())
}

async fn requests() -> anyhow::Result<()> {
    let document = up(&["deny-billing.yaml"], MISTAKE, &["--for", "8s", "--json"])?;
    let notices = serde_json::from_str::<Value>(&document)?["notices"].to_string();
    ensure!(notices.contains("AuthorizationPolicy billing/mistake: Service billing/biling does not exist"), "{notices}");
    let edges = edges(&document)?;
    let denied = edge(&edges, "shop/api", "billing/billing")?;
    ensure!(denied["errors"].as_u64() > Some(0), "{denied:#}");
    let refusal = &denied["refusal"];
    ensure!(refusal["reason"] == "policy_denied_explicit" && refusal["policy"] == "billing/no-invoices", "{refusal}");
    ensure!(refusal["by"].as_str().is_some_and(|by| by.starts_with("waypoint/billing/")), "{refusal}");
    ensure!(denied["encrypted"] == true, "{denied:#}");
    // The api calls the notifications last, after the invoice that fails.
    ensure!(edge(&edges, "shop/api", "shop/notifications")?["errors"] == 0, "{edges:#?}");
    for destination in ["shop/orders", "shop/permissions"] {
        let other = edge(&edges, "shop/api", destination)?;
        ensure!(other["errors"] == 0 && other["requests"].as_u64() > Some(0), "{other:#}");
    }
    Ok(())
}

async fn table() -> anyhow::Result<()> {
    let text = up(&["deny-web.yaml", "deny-billing.yaml"], "", &["--for", "8s"])?;
    let row = text.lines().rfind(|line| line.starts_with("shop/web → shop/api")).context("the edge")?;
    ensure!(row.contains(" 0.0 %"), "{row}");
    let refusals = text.rsplit_once("last refusals").with_context(|| text.clone())?.1;
    let line = refusals.lines().find(|line| line.contains("shop/web → shop/api")).with_context(|| text.clone())?;
    let words =
        "policy_denied_explicit by policy shop/no-web (logged by ztunnel/node-1 and ztunnel/node-2): A DENY policy matched";
    ensure!(line.contains(words), "{line}");
    Ok(())
}

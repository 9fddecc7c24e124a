//! nginx and Python's web server, asked by curl.

use ambit_integration::{SharedMesh, shared, suite::Suite};
use anyhow::{Context, ensure};
use libtest_mimic::Trial;

use super::{encrypted, logged, shell};

pub fn tests(mesh: &'static SharedMesh) -> Vec<Trial> {
    vec![
        shared(mesh, "curl gets a file from nginx whole, over IPv4 and IPv6", async |suite| file(suite, "programs/files").await),
        shared(mesh, "curl gets a file from nginx whole through a waypoint, over IPv4 and IPv6", async |suite| {
            file(suite, "guarded/files").await
        }),
        shared(mesh, "curl gets part of a file and resumes where it ended", resume),
        shared(mesh, "a connection of curl is kept alive over many files", keep_alive),
        shared(mesh, "Python's web server answers curl and Python's client", python),
    ]
}

/// The name of a service as programs in other namespaces know it.
fn host(service: &str) -> anyhow::Result<String> {
    let (namespace, name) = service.split_once('/').context("namespace/name")?;
    Ok(format!("{name}.{namespace}"))
}

async fn file(suite: &Suite, service: &str) -> anyhow::Result<()> {
    let before = logged(suite);
    for family in suite.families().of(["-4", "-6"]) {
        let script = "curl -sSf $1 http://$2/sum; curl -sSf $1 http://$2/file | sha256sum";
        let sums = shell(suite, script, &[family, &host(service)?]).await?;
        let sums: Vec<&str> = sums.lines().collect();
        ensure!(sums.len() == 2 && sums[0].len() > 64 && sums[0] == sums[1], "curl {family}: {sums:?}");
    }
    encrypted(suite, service, before).await
}

async fn resume(suite: &Suite) -> anyhow::Result<()> {
    let script = "cd $(mktemp -d); curl -sSf -o part -r 0-9999999 http://$1/file; curl -sSf -o part -C - http://$1/file; \
                  curl -sSf http://$1/sum; sha256sum < part";
    let sums = shell(suite, script, &["files.guarded"]).await?;
    let sums: Vec<&str> = sums.lines().collect();
    ensure!(sums.len() == 2 && sums[0] == sums[1], "{sums:?}");
    Ok(())
}

async fn keep_alive(suite: &Suite) -> anyhow::Result<()> {
    let urls = "http://$1/sum?[1-50]";
    for host in ["files.programs", "files.guarded"] {
        let script = format!("curl -sSf -o /dev/null -w '%{{http_code}} %{{num_connects}}\\n' {urls}");
        let answers = shell(suite, &script, &[host]).await?;
        let answers: Vec<&str> = answers.lines().collect();
        let good = answers.len() == 50 && answers[0] == "200 1" && answers[1..].iter().all(|answer| *answer == "200 0");
        ensure!(good, "{host}: {answers:?}");
    }
    Ok(())
}

async fn python(suite: &Suite) -> anyhow::Result<()> {
    let before = logged(suite);
    for family in suite.families().of(["-4", "-6"]) {
        let answer = shell(suite, "curl -sSf $1 http://web.programs/page", &[family]).await?;
        ensure!(answer == "from python\n", "{answer:?}");
        let status = shell(suite, "curl -sS $1 -o /dev/null -w '%{http_code}' http://web.programs/nothing", &[family]).await?;
        ensure!(status == "404", "{status}");
    }
    let python = ambit_integration::tools::python(&["urllib.request"])?;
    let script = "$1 -c 'import urllib.request as r; print(r.urlopen(\"http://web.programs/page\", timeout=10).read())'";
    let answer = shell(suite, script, &[&python.to_string_lossy()]).await?;
    ensure!(answer == "b'from python\\n'\n", "{answer:?}");
    encrypted(suite, "programs/web", before).await
}

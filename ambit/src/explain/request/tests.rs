use std::path::Path;
use std::sync::Arc;

use ambit_runtime::admin::{Reply, Server};
use ambit_runtime::drain;
use clap::Parser;
use tokio::net::TcpListener;

use super::*;
use crate::explain::Files;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    args: RequestArgs,
}

fn args(asked: &[&str], of: &[&str]) -> RequestArgs {
    Cli::parse_from([&["request", "--from", "shop/api-1"][..], asked, of].concat()).args
}

async fn served(server: Server, drain: &drain::Watch) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(server.run(listener, drain.clone()));
    format!("http://{address}")
}

/// Admin pages of a node proxy and a waypoint that hold what the files say: the waypoint's is its own.
async fn running(world: World, drain: &drain::Watch) -> (String, String) {
    let (snapshot, rejected) = world.waypoint(&world.gateway("billing/waypoint").unwrap()).unwrap();
    assert!(rejected.is_empty(), "{rejected:?}");
    let world = Arc::new(world);
    let connection = move |query: &ambit_runtime::admin::Query| {
        let answer = world.connection(query.get("from").unwrap(), query.get("to").unwrap()).unwrap();
        Reply::json(&json!({"explanation": answer.explanation, "text": answer.text}))
    };
    let ztunnel = served(Server::new().get("/explain", connection), drain).await;
    let waypoint = served(Server::new().get("/explain", move |query| at_waypoint::page(&snapshot, query)), drain).await;
    (ztunnel, waypoint)
}

#[tokio::test]
async fn what_runs_is_asked_the_question_that_files_are_asked() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
    let files = ["--dir", demo.to_str().unwrap()];
    let url = "http://billing.billing:8080/in%20voices?a=1&b=%26#x";
    let (_trigger, watch) = drain::channel();
    let first = args(&["GET", url], &files);
    let world = World::read(&first.of, &demo).await.unwrap();
    let (ztunnel, waypoint) = running(world, &watch).await;
    for asked in [
        &["GET", url][..],
        &["DELETE", url],
        &["POST", url, "-H", "x-a: 1, 2 & 3", "-H", "x-a:4", "-H", "host: other"],
        &["GET", url, "--http2", "-H", "content-type: application/grpc"],
    ] {
        let mut said = answer(&args(asked, &files)).await.unwrap().explanation;
        // Whether the endpoints let the waypoint in is asked of files only.
        let steps = said["ways"][0]["steps"].as_array_mut().unwrap();
        steps.retain(|step| step["stage"] != "beyond");
        let live = args(asked, &["--ztunnel", &ztunnel, "--waypoint", &waypoint]);
        assert_eq!(answer(&live).await.unwrap().explanation, said, "{asked:?}");
    }
    let without = answer(&args(&["GET", url], &["--ztunnel", &ztunnel])).await.unwrap();
    assert_eq!(without.explanation["verdict"], "unknown", "{}", without.text);
    assert!(without.text.contains("kubectl port-forward -n billing pod/waypoint 15001:15000"), "{}", without.text);
    let nobody = answer(&args(&["GET", url], &["--ztunnel", &ztunnel, "--waypoint", "http://127.0.0.1:9"])).await;
    assert!(nobody.is_err_and(|error| error.to_string().contains("asking the waypoint at http://127.0.0.1:9")));
}

#[tokio::test]
async fn files_that_are_read_once_answer_each_question_as_files_that_are_read_for_it() {
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../manifests/demo");
    let of = ["--dir", demo.to_str().unwrap()];
    let questions = ["GET", "DELETE", "GET"].map(|method| args(&[method, "http://billing.billing:8080/a"], &of));
    let files = Files::read(&questions[0].of, &demo).await.unwrap();
    for question in &questions {
        assert_eq!(files.request(question).await.unwrap(), answer(question).await.unwrap().explanation, "{}", question.method);
    }
    let sealed = args(&["GET", "https://billing.billing:8080/"], &of);
    assert!(files.request(&sealed).await.is_err(), "nobody reads what is inside TLS of the application");
}

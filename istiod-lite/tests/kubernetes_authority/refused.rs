//! Who gets no certificate, and that the log says why.

use std::time::Duration;

use ambit_tls::token::{Bound, Claims, ObjectReference, Signer};

use crate::bed::{AUDIENCE, Bed, Replica, eventually, logged};

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const API: &str = "spiffe://cluster.local/ns/shop/sa/api";
const NODE: &str = "istio-system/ztunnel";

/// A token that this cluster has signed, whose time is over: the API server itself makes none that ends before ten minutes.
fn expired(bed: &Bed, uid: &str) -> String {
    let directory = bed.directory.path().join("signer");
    std::fs::create_dir_all(&directory).unwrap();
    let key = std::fs::read(bed.api.directory().join("pki/accounts.key")).unwrap();
    std::fs::write(directory.join("token-key.pem"), key).unwrap();
    let bound = Bound {
        namespace: "istio-system".parse().unwrap(),
        pod: Some(ObjectReference::new("ztunnel-1", uid)),
        serviceaccount: ObjectReference::new("ztunnel", ""),
        node: None,
    };
    let mut claims = Claims::new(&[AUDIENCE], bound, Duration::ZERO);
    claims.exp -= 60;
    Signer::load_or_create(&directory).unwrap().sign(&claims).unwrap()
}

/// Asks with a token that gets nothing; the page and the log say why.
async fn refused(bed: &Bed, replica: &Replica, token: &str, asked: &str, reason: &str) {
    let code = bed.ask(replica, token, asked, true).await.unwrap_err();
    let said = replica.refusal().await;
    assert!(said.contains(reason), "said was {said:?}, expected {reason:?}");
    assert_eq!(code, "Unauthenticated", "{said}");
    assert!(logged(&["a certificate was refused", &format!("asked=\"{asked}\""), reason]), "the log does not say {reason:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_callers_whose_token_and_pod_are_real_get_certificates_and_only_for_their_node() {
    let bed = Bed::new().await;
    let replica = bed.replica(3600, 300).await;
    let node = bed.token(NODE, Some("ztunnel-1"), AUDIENCE).await;
    eventually("a certificate", async || bed.ask(&replica, &node, WEB, true).await.ok()).await;

    let vault = bed.token(NODE, Some("ztunnel-1"), "vault").await;
    refused(&bed, &replica, &vault, WEB, "it is for the audiences").await;
    refused(&bed, &replica, &expired(&bed, "any"), WEB, "it has expired").await;
    refused(&bed, &replica, &node, API, "has the identity spiffe://cluster.local/ns/shop/sa/api").await;
    let unbound = bed.token(NODE, None, AUDIENCE).await;
    refused(&bed, &replica, &unbound, WEB, "the token of istio-system/ztunnel is not bound to a pod").await;
    for (account, pod) in [("shop/web", "web"), ("shop/ztunnel", "false-ztunnel")] {
        let stranger = bed.token(account, Some(pod), AUDIENCE).await;
        refused(&bed, &replica, &stranger, API, &format!("{account} is not a node account")).await;
    }
    // Its own it gets.
    let web = bed.token("shop/web", Some("web"), AUDIENCE).await;
    bed.ask(&replica, &web, WEB, false).await.unwrap();

    let other = Bed::new().await;
    let foreign = other.token(NODE, Some("ztunnel-1"), AUDIENCE).await;
    refused(&bed, &replica, &foreign, WEB, "the API server does not accept it").await;

    // Two tokens of a pod that is deleted: one that was accepted a moment ago, and one that nobody has seen.
    let (seen, unseen) =
        (bed.token("shop/web", Some("gone"), AUDIENCE).await, bed.token("shop/web", Some("gone"), AUDIENCE).await);
    bed.ask(&replica, &seen, WEB, false).await.unwrap();
    bed.delete_pod("shop", "gone").await;
    eventually("a refusal", async || bed.ask(&replica, &seen, WEB, false).await.err()).await;
    assert_eq!(replica.refusal().await, "the token's pod shop/gone does not exist");
    assert!(logged(&["a certificate was refused", "the token's pod shop/gone does not exist"]));
    refused(&bed, &replica, &unseen, WEB, "the API server does not accept it").await;
    replica.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_api_server_is_away_those_who_were_accepted_are_served_and_nobody_else() {
    let mut bed = Bed::new().await;
    let replica = bed.replica(3600, 300).await;
    let node = bed.token(NODE, Some("ztunnel-1"), AUDIENCE).await;
    let web = bed.token("shop/web", Some("web"), AUDIENCE).await;
    eventually("a certificate", async || bed.ask(&replica, &node, WEB, true).await.ok()).await;
    let roots = bed.roots("shop").await.unwrap();
    bed.api.kill_api_server();
    let ask = async |token: &str| bed.ask_with(&replica, &roots, token, WEB, false).await;
    assert_eq!(ask(&web).await.unwrap_err(), "Unavailable");
    assert!(logged(&["a certificate was refused", "the token cannot be verified now: the API server does not answer"]));
    bed.ask_with(&replica, &roots, &node, WEB, true).await.unwrap();
    bed.api.start_api_server().await.unwrap();
    eventually("a certificate", async || bed.ask(&replica, &web, WEB, false).await.ok()).await;
    replica.stop().await;
}

//! The small variant as a test of a control plane uses it.

use std::time::Duration;

use ambit_cluster::manifests::Channel;
use ambit_cluster::{ApiServer, ApiServerOptions, api_server};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{Api, ListParams, PostParams, WatchEvent, WatchParams};

use futures::TryStreamExt;

#[tokio::test]
async fn it_keeps_what_it_was_given_while_it_and_its_etcd_are_killed_and_started_again() {
    let mut api = ApiServer::start().await.unwrap();
    let namespaces: Api<Namespace> = Api::all(api.client().await.unwrap());
    let shop = serde_json::from_str(r#"{"metadata":{"name":"shop"}}"#).unwrap();
    namespaces.create(&PostParams::default(), &shop).await.unwrap();

    api.kill_api_server();
    assert!(namespaces.get("shop").await.is_err(), "nobody answers");
    api.kill_etcd();
    api.start_etcd().await.unwrap();
    api.start_api_server().await.unwrap();
    assert!(namespaces.get("shop").await.is_ok());

    let directory = api.directory().to_owned();
    drop(api);
    assert!(namespaces.get("shop").await.is_err(), "it ends with the value");
    assert!(!directory.exists(), "{} is left", directory.display());
}

#[tokio::test]
async fn a_server_that_refuses_to_start_is_named() {
    let options = ApiServerOptions { arguments: vec!["--no-such-flag".to_owned()], ..ApiServerOptions::default() };
    let error = ApiServer::start_with(options).await.unwrap_err().to_string();
    assert!(error.contains("kube-apiserver ended instead of becoming ready"), "{error}");
}

#[tokio::test]
async fn definitions_of_the_gateway_api_are_served_and_refuse_what_is_wrong() {
    let api = ApiServer::start().await.unwrap();
    api.install_gateway_api(Channel::Experimental).await.unwrap();
    let route = |weight: &str| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: api, namespace: default}}\n\
             spec: {{rules: [{{backendRefs: [{{name: api, port: 80, weight: {weight}}}]}}]}}\n"
        )
    };
    api.apply(&route("1")).await.unwrap();
    let refused = api.apply(&route("-1")).await.unwrap_err().to_string();
    assert!(refused.contains("weight"), "{refused}");
    assert!(api.kubectl(&["get", "httproutes", "-A", "-o", "name"]).await.unwrap().contains("/api"));
}

#[tokio::test]
async fn tokens_are_made_and_reviewed_and_other_users_may_do_nothing() {
    let api = ApiServer::start().await.unwrap();
    api.apply("{apiVersion: v1, kind: ServiceAccount, metadata: {name: web, namespace: default}}").await.unwrap();
    let token = api.kubectl(&["create", "token", "web", "--audience=istio-ca"]).await.unwrap();
    let reviews: Api<TokenReview> = Api::all(api.client().await.unwrap());
    let review = async |audience: &str| {
        let spec = TokenReviewSpec { token: Some(token.clone()), audiences: Some(vec![audience.to_owned()]) };
        let review = TokenReview { spec, ..TokenReview::default() };
        reviews.create(&PostParams::default(), &review).await.unwrap().status.unwrap()
    };
    let accepted = review("istio-ca").await;
    assert_eq!(accepted.user.unwrap().username.as_deref(), Some("system:serviceaccount:default:web"));
    assert_ne!(review("another").await.authenticated, Some(true));

    let kubeconfig = api.kubeconfig_of("system:serviceaccount:default:web", None).unwrap();
    let web: Api<ConfigMap> = Api::default_namespaced(api_server::client_of(&kubeconfig).await.unwrap());
    let refused = web.list(&ListParams::default()).await.unwrap_err().to_string();
    assert!(refused.contains("system:serviceaccount:default:web") && refused.contains("forbidden"), "{refused}");
}

#[tokio::test]
async fn a_watch_from_before_a_compaction_is_gone() {
    let mut api = ApiServer::start().await.unwrap();
    let maps: Api<ConfigMap> = Api::namespaced(api.client().await.unwrap(), "default");
    let map = |name: &str| serde_json::from_value(serde_json::json!({ "metadata": { "name": name } })).unwrap();
    let first = maps.create(&PostParams::default(), &map("first")).await.unwrap();
    maps.create(&PostParams::default(), &map("second")).await.unwrap();
    api.kill_api_server();
    api.compact().await.unwrap();
    api.start_api_server().await.unwrap();
    let version = first.metadata.resource_version.unwrap();
    let watch = async {
        let mut events = std::pin::pin!(maps.watch(&WatchParams::default(), &version).await?);
        events.try_next().await
    };
    let answer = tokio::time::timeout(Duration::from_secs(30), watch).await.unwrap();
    let code = match answer {
        Ok(Some(WatchEvent::Error(status))) => status.code,
        Err(kube::Error::Api(status)) => status.code,
        other => panic!("{other:?}"),
    };
    assert_eq!(code, 410);
}

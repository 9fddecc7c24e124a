use std::sync::Arc;

use ambit_zds::{protocol::Request as Asked, seqpacket::Listener};

use super::*;

type Queue = mpsc::Receiver<(Request, oneshot::Sender<Result<(), Error>>)>;

/// Lists a proxy that has room for so many requests.
fn connect(proxies: &Proxies, room: usize, ready: bool) -> (u64, Queue) {
    let (requests, queue) = mpsc::channel(room);
    let mut state = proxies.state();
    let number = state.next;
    state.next += 1;
    let (asked, accepted, refused) = (HashSet::new(), HashMap::new(), BTreeMap::new());
    state.proxies.push(Proxy { number, requests, ready, asked, accepted, refused });
    (number, queue)
}

#[tokio::test]
async fn a_proxy_that_takes_its_time_is_not_waited_for_and_does_it_later() {
    let proxies = Proxies::new();
    let (_, mut queue) = connect(&proxies, 8, false);
    let lines = proxies.state().proxies.iter().map(Proxy::line).collect();
    let answer = proxies.delete("u", lines, Duration::from_millis(50)).await;
    assert!(matches!(&answer, Err(Error::Unanswered(uid)) if uid == "u"), "{answer:?}");
    assert!(matches!(queue.try_recv(), Ok((Request::Delete(uid), _)) if uid == "u"));
    assert!(proxies.is_listed(0));
}

#[tokio::test]
async fn a_proxy_that_takes_no_requests_any_more_is_given_up() {
    let proxies = Proxies::new();
    let (number, _queue) = connect(&proxies, 1, false);
    let waiting = proxies.state().proxies[0].requests.clone();
    let (reply, _answer) = oneshot::channel();
    waiting.try_send((Request::Delete("another".to_owned()), reply)).unwrap();
    proxies.take_back("u").await.unwrap();
    assert!(!proxies.is_listed(number), "it would serve the pod for ever");
}

/// The UIDs that it is asked to take away, until it is gone. It does what it is asked.
async fn taken_away(mut queue: Queue) -> Vec<String> {
    let mut heard = Vec::new();
    while let Some((request, reply)) = queue.recv().await {
        if let Request::Delete(uid) = request {
            heard.push(uid);
        }
        let _given_up = reply.send(Ok(()));
    }
    heard
}

#[tokio::test]
async fn a_pod_whose_uid_is_another_ones_by_now_is_taken_from_the_older_proxies_that_serve_it() {
    let proxies = Proxies::new();
    let queues: Vec<Queue> = (0..3).map(|_| connect(&proxies, 8, true).1).collect();
    let pod = |name: &str| {
        let (namespace, service_account) = ("shop".parse().unwrap(), "web".parse().unwrap());
        let info = PodInfo { uid: "u".to_owned(), name: name.to_owned(), namespace, service_account };
        Handed { info, netns: NetNs::current().unwrap() }
    };
    let (before, now) = (pod("before"), pod("now"));
    proxies.know(&before);
    // The first one serves it, the next one never did, the newest one still does.
    for number in [0, 2] {
        proxies.note(number, &Request::Add(before.clone()).noted(), &Ok(()));
    }
    proxies.know(&now);
    let heard: Vec<_> = queues.into_iter().map(|queue| tokio::spawn(taken_away(queue))).collect();
    proxies.remove(&before).await.unwrap();
    assert_eq!(proxies.state().pods.get("u"), Some(&now));
    drop(proxies);
    let mut taken = Vec::new();
    for heard in heard {
        taken.push(heard.await.unwrap());
    }
    assert_eq!(taken, [vec!["u".to_owned()], vec![], vec![]]);
}

fn in_own_namespace(uid: &str) -> Handed {
    let (namespace, service_account) = ("shop".parse().unwrap(), "web".parse().unwrap());
    let info = PodInfo { uid: uid.to_owned(), name: uid.to_owned(), namespace, service_account };
    Handed { info, netns: NetNs::current().unwrap() }
}

/// The next pod that a proxy which leaves is told of.
async fn told(proxy: &Connection) -> String {
    let packet = tokio::time::timeout(ANSWER, proxy.receive()).await.unwrap().unwrap().unwrap();
    match protocol::read_request(packet).unwrap() {
        Asked::Delete(uid) => uid,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_proxy_that_leaves_hears_whose_namespaces_are_anothers_by_now() {
    let directory = tempfile::tempdir().unwrap();
    let listener = Listener::bind(&directory.path().join("zds.sock")).unwrap();
    let proxies = Proxies::new();
    let [first, second, third] = ["first", "second", "third"].map(in_own_namespace);
    proxies.know(&first);
    proxies.remove(&first).await.unwrap();
    proxies.know(&second);
    let proxy = Connection::connect(&directory.path().join("zds.sock")).unwrap();
    proxies.leaves(listener.accept().await.unwrap());
    assert_eq!(told(&proxy).await, "first", "which happened before");
    proxies.know(&second);
    proxies.remove(&second).await.unwrap();
    proxies.know(&third);
    // The first one again: who is remembered is told of, whether it was before or not.
    assert_eq!([told(&proxy).await, told(&proxy).await], ["first", "second"]);
    drop(proxy);
    proxies.remove(&third).await.unwrap();
    proxies.know(&first);
    assert!(proxies.state().leaving.is_empty(), "it is gone");
    for uid in 0..2 * REMEMBERED {
        proxies.remove(&in_own_namespace(&uid.to_string())).await.unwrap();
    }
    assert_eq!(proxies.state().left.len(), REMEMBERED);
}

#[tokio::test]
async fn proxies_that_were_killed_take_no_place_of_one_that_leaves() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zds.sock");
    let listener = Listener::bind(&path).unwrap();
    let proxies = Proxies::new();
    let proxy = Connection::connect(&path).unwrap();
    proxies.leaves(listener.accept().await.unwrap());
    for _ in 0..2 * LEAVING {
        let killed = Connection::connect(&path).unwrap();
        let accepted = listener.accept().await.unwrap();
        drop(killed);
        proxies.leaves(accepted);
    }
    let [first, second] = ["first", "second"].map(in_own_namespace);
    proxies.know(&first);
    proxies.remove(&first).await.unwrap();
    proxies.know(&second);
    // Nobody is named while it is found out who is there.
    while told(&proxy).await != "first" {}
}

#[tokio::test]
async fn a_proxy_that_leaves_in_place_of_an_answer_hears_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("zds.sock");
    let proxies = Arc::new(Proxies::new());
    tokio::spawn(accept(Listener::bind(&path).unwrap(), Arc::clone(&proxies)));
    let proxy = Connection::connect(&path).unwrap();
    proxy.send(&protocol::hello(), None).await.unwrap();
    // There are no pods yet.
    assert!(proxy.receive().await.unwrap().is_some());
    proxy.send(&protocol::ack(Ok(())), None).await.unwrap();
    let mut ready = proxies.ready();
    tokio::time::timeout(ANSWER, ready.wait_for(|ready| *ready == 1)).await.unwrap().unwrap();
    let [first, second] = ["first", "second"].map(in_own_namespace);
    proxies.know(&first);
    let leaves = async {
        assert_eq!(told(&proxy).await, "first", "which is no longer there");
        proxy.finish().unwrap();
    };
    let (removed, ()) = tokio::join!(proxies.remove(&first), leaves);
    removed.unwrap();
    let known = async {
        while proxies.state().leaving.is_empty() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(ANSWER, known).await.unwrap();
    proxies.know(&second);
    assert_eq!(told(&proxy).await, "first", "whose namespace is another's");
}

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

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use ambit_tls::token::{AUDIENCE, Bound, Claims, ObjectReference, Signer};
use k8s_openapi::api::authentication::v1::{TokenReviewStatus, UserInfo};
use tokio::{sync::Notify, time::Instant};

use super::{
    Key, LONGEST, Review, Reviews,
    cache::{ACCEPTED, Cache, MOST_ACCEPTED, MOST_REFUSED, Now, REFUSED},
    verdict,
};
use crate::ca::{Caller, TokenError};

fn web() -> Caller {
    Caller {
        account: "shop/web".parse().unwrap(),
        pod: Some(ObjectReference::new("web", "uid-web")),
        node: Some("n1".to_owned()),
    }
}

/// A token of this audience that ends so many seconds from now.
fn token(audience: &str, seconds: i64) -> String {
    let bound =
        Bound { namespace: "shop".parse().unwrap(), pod: None, serviceaccount: ObjectReference::new("web", ""), node: None };
    let mut claims = Claims::new(&[audience], bound, Duration::ZERO);
    claims.exp = claims.exp.saturating_add_signed(seconds);
    Signer::create().unwrap().sign(&claims).unwrap()
}

/// The API server as the test has it answer.
#[derive(Clone)]
struct Answers {
    says: Arc<std::sync::Mutex<Result<Caller, TokenError>>>,
    asked: Arc<AtomicUsize>,
    /// When there, each answer waits for it.
    held: Option<Arc<Notify>>,
}

impl Answers {
    fn new(says: Result<Caller, TokenError>) -> Self {
        Self { says: Arc::new(std::sync::Mutex::new(says)), asked: Arc::default(), held: None }
    }

    fn say(&self, says: Result<Caller, TokenError>) {
        *self.says.lock().unwrap() = says;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait::async_trait]
impl Review for Answers {
    async fn review(&self, _: &str) -> Result<Caller, TokenError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(held) = &self.held {
            held.notified().await;
        }
        self.says.lock().unwrap().clone()
    }
}

/// A clock that the test moves.
#[derive(Clone)]
struct Time(Arc<std::sync::Mutex<Now>>);

impl Time {
    fn advance(&self, time: Duration) {
        let mut now = self.0.lock().unwrap();
        *now = after(*now, time);
    }
}

fn reviews(answers: &Answers) -> (Reviews<Answers>, Time) {
    let time = Time(Arc::new(std::sync::Mutex::new(now())));
    let clock = time.clone();
    let reviews = Reviews::with_clock(answers.clone(), Box::new(move || *clock.0.lock().unwrap()), Duration::from_secs(60));
    (reviews, time)
}

fn refused(reason: &str) -> TokenError {
    TokenError::Refused(reason.to_owned())
}

fn away() -> TokenError {
    TokenError::Unavailable("the API server is away".to_owned())
}

#[tokio::test]
async fn an_accepted_token_is_asked_about_once_a_minute() {
    let answers = Answers::new(Ok(web()));
    let ((reviews, time), token) = (reviews(&answers), token(AUDIENCE, 3600));
    for _ in 0..10 {
        assert_eq!(reviews.caller(&token, None).await, Ok(web()));
        time.advance(Duration::from_secs(5));
    }
    assert_eq!(answers.asked(), 1);
    time.advance(Duration::from_secs(11));
    answers.say(Err(refused("its pod is gone")));
    assert_eq!(reviews.caller(&token, None).await, Err(refused("its pod is gone")));
    assert_eq!(answers.asked(), 2);
}

#[tokio::test]
async fn a_refused_token_is_asked_about_again_soon() {
    let answers = Answers::new(Err(refused("no")));
    let ((reviews, time), token) = (reviews(&answers), token(AUDIENCE, 3600));
    for _ in 0..10 {
        assert_eq!(reviews.caller(&token, None).await, Err(refused("no")));
    }
    assert_eq!(answers.asked(), 1);
    time.advance(REFUSED);
    answers.say(Ok(web()));
    assert_eq!(reviews.caller(&token, None).await, Ok(web()));
}

#[tokio::test]
async fn while_the_api_server_is_away_only_what_is_remembered_counts() {
    let answers = Answers::new(Ok(web()));
    let (reviews, time) = reviews(&answers);
    let (known, other) = (token(AUDIENCE, 3600), token(AUDIENCE, 3600));
    reviews.caller(&known, None).await.unwrap();
    answers.say(Err(away()));
    assert_eq!(reviews.caller(&known, None).await, Ok(web()));
    assert_eq!(reviews.caller(&other, None).await, Err(away()));
    assert_eq!(reviews.caller(&other, None).await, Err(away()), "that nobody answered is not an answer");
    assert_eq!(answers.asked(), 3);
    time.advance(ACCEPTED);
    assert_eq!(reviews.caller(&known, None).await, Err(away()), "what was remembered has an end");
    answers.say(Ok(web()));
    assert_eq!(reviews.caller(&known, None).await, Ok(web()));
}

#[tokio::test]
async fn an_address_that_sends_tokens_without_end_is_not_asked_for_without_end_and_others_are() {
    let answers = Answers::new(Err(refused("no")));
    let (reviews, time) = reviews(&answers);
    let (greedy, other) = (Some("10.0.0.1".parse().unwrap()), Some("10.0.0.2".parse().unwrap()));
    let said = "too many tokens that nobody knows come from 10.0.0.1";
    let good = token(AUDIENCE, 3600);
    // Its signature is wrong, but that is for the API server to say.
    let bad = |number: usize| format!("{good}{number}");
    let mut number = 0;
    while reviews.caller(&bad(number), greedy).await == Err(refused("no")) {
        number += 1;
        assert!(number < 10_000, "there is no end");
    }
    assert_eq!(answers.asked(), number);
    assert_eq!(reviews.caller(&bad(number), greedy).await, Err(TokenError::Unavailable(said.to_owned())));
    answers.say(Ok(web()));
    assert_eq!(reviews.caller(&good, other).await, Ok(web()));
    assert_eq!(reviews.caller(&good, greedy).await, Ok(web()), "what is known need not be asked about");
    time.advance(Duration::from_secs(1));
    assert_eq!(reviews.caller(&bad(number), greedy).await, Ok(web()), "it has an end");
}

#[tokio::test]
async fn an_api_server_that_hangs_lets_nobody_in() {
    let answers = Answers { held: Some(Arc::default()), ..Answers::new(Ok(web())) };
    let reviews = Reviews::with_clock(answers, Box::new(Now::read), Duration::from_millis(50));
    let said = reviews.caller(&token(AUDIENCE, 3600), None).await;
    assert_eq!(said, Err(TokenError::Unavailable("no answer within 0.05 s".to_owned())));
}

#[tokio::test]
async fn many_who_ask_with_one_token_at_once_are_one_question() {
    let held = Arc::new(Notify::new());
    let answers = Answers { held: Some(Arc::clone(&held)), ..Answers::new(Ok(web())) };
    let reviews = Arc::new(Reviews::new(answers.clone()));
    let token = token(AUDIENCE, 3600);
    // The first of them gives up before there is an answer; the others must not hang.
    let ask = || {
        let (reviews, token) = (Arc::clone(&reviews), token.clone());
        tokio::spawn(async move { reviews.caller(&token, None).await })
    };
    let first = ask();
    while answers.asked() == 0 {
        tokio::task::yield_now().await;
    }
    let others: Vec<_> = (0..50).map(|_| ask()).collect();
    tokio::task::yield_now().await;
    first.abort();
    let _ = first.await;
    let release = async {
        loop {
            held.notify_waiters();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let all = async {
        for other in others {
            assert_eq!(other.await.unwrap(), Ok(web()));
        }
    };
    tokio::select! {
        () = all => {}
        () = release => {}
    }
    assert_eq!(answers.asked(), 1);
}

#[tokio::test]
async fn what_a_token_says_of_itself_can_refuse_it_but_never_let_it_in() {
    let answers = Answers::new(Ok(web()));
    let reviews = Reviews::new(answers.clone());
    for (token, reason) in [
        (token("vault", 3600), "it is for the audiences [\"vault\"], not for \"istio-ca\""),
        (token(AUDIENCE, -1), "it has expired"),
        ("nonsense".to_owned(), "it is not a JWT"),
        (String::new(), "it is not a JWT"),
        ("x".repeat(LONGEST + 1), "it has 16385 bytes, more than 16384"),
    ] {
        assert_eq!(reviews.caller(&token, None).await, Err(refused(reason)));
    }
    assert_eq!(answers.asked(), 0);
    answers.say(Err(refused("its signature is wrong")));
    assert_eq!(reviews.caller(&token(AUDIENCE, 3600), None).await, Err(refused("its signature is wrong")));
}

fn key(number: usize) -> Key {
    let mut key = Key::default();
    key[..8].copy_from_slice(&number.to_le_bytes());
    key
}

fn after(now: Now, time: Duration) -> Now {
    Now { steady: now.steady + time, wall: now.wall + time }
}

fn now() -> Now {
    Now { steady: Instant::now(), wall: SystemTime::now() }
}

#[test]
fn an_answer_holds_until_its_time_or_the_token_ends_by_either_clock() {
    const SECOND: Duration = Duration::from_secs(1);
    let now = now();
    for (life, said, holds) in [
        (Duration::from_hours(1), Ok(web()), ACCEPTED),
        (Duration::from_secs(20), Ok(web()), Duration::from_secs(20)),
        (Duration::from_hours(1), Err("no".to_owned()), REFUSED),
        (Duration::from_secs(2), Err("no".to_owned()), Duration::from_secs(2)),
    ] {
        let mut cache = Cache::default();
        cache.put(key(1), said.clone(), now.wall + life, now);
        assert_eq!(cache.get(&key(1), after(now, holds - SECOND)), Some(said));
        assert_eq!(cache.get(&key(1), after(now, holds)), None);
        assert_eq!(cache.get(&key(2), now), None);
    }
    let mut cache = Cache::default();
    cache.put(key(1), Ok(web()), now.wall + Duration::from_hours(1), now);
    let jumped = |wall| Now { wall, ..now };
    assert_eq!(cache.get(&key(1), jumped(now.wall + Duration::from_hours(1))), None, "the machine slept");
    let set_back = Now { steady: now.steady + ACCEPTED, wall: now.wall - Duration::from_hours(24) };
    assert_eq!(cache.get(&key(1), set_back), None, "a clock that is set back makes no answer last longer");
}

#[test]
fn the_last_answer_counts() {
    let (mut cache, now) = (Cache::default(), now());
    let end = now.wall + Duration::from_hours(1);
    cache.put(key(1), Ok(web()), end, now);
    cache.put(key(1), Err("gone".to_owned()), end, now);
    assert_eq!(cache.get(&key(1), now), Some(Err("gone".to_owned())));
    assert_eq!(cache.get(&key(1), after(now, REFUSED)), None, "the answer before it does not come back");
    cache.put(key(1), Ok(web()), end, now);
    assert_eq!(cache.get(&key(1), now), Some(Ok(web())));
}

#[test]
fn answers_are_bounded_and_a_flood_of_refused_tokens_makes_nobody_forgotten() {
    let (mut cache, now) = (Cache::default(), now());
    let end = now.wall + Duration::from_hours(1);
    cache.put(key(0), Ok(web()), end, now);
    for number in 1..3 * MOST_REFUSED {
        cache.put(key(number), Err("no".to_owned()), end, after(now, Duration::from_micros(number as u64)));
        assert!(cache.counts().1 <= MOST_REFUSED);
    }
    assert_eq!(cache.get(&key(0), now), Some(Ok(web())));
    assert!(cache.get(&key(3 * MOST_REFUSED - 1), now).is_some(), "the newest is remembered");
    for number in 1..MOST_ACCEPTED + 100 {
        cache.put(key(number), Ok(web()), end, after(now, Duration::from_micros(number as u64)));
        assert!(cache.counts().0 <= MOST_ACCEPTED);
    }
    assert_eq!(cache.get(&key(0), now), None, "the oldest made room");
}

fn status(audiences: &[&str], user: &str, extra: &[(&str, &[&str])]) -> TokenReviewStatus {
    let owned = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let extra = extra.iter().map(|(name, values)| (format!("authentication.kubernetes.io/{name}"), owned(values))).collect();
    let user = UserInfo { username: Some(user.to_owned()), extra: Some(extra), ..UserInfo::default() };
    TokenReviewStatus { audiences: Some(owned(audiences)), authenticated: Some(true), error: None, user: Some(user) }
}

const WEB: &str = "system:serviceaccount:shop:web";

#[test]
fn pod_and_node_come_from_what_the_api_server_says() {
    let bound: [(&str, &[&str]); 4] =
        [("pod-name", &["web"]), ("pod-uid", &["uid-web"]), ("node-name", &["n1"]), ("credential-id", &["JTI=1"])];
    assert_eq!(verdict::caller(status(&["other", AUDIENCE], WEB, &bound)), Ok(web()));
    assert_eq!(verdict::caller(status(&[AUDIENCE], WEB, &bound[..2])), Ok(Caller { node: None, ..web() }));
    assert_eq!(verdict::caller(status(&[AUDIENCE], WEB, &[])), Ok(Caller { node: None, pod: None, ..web() }));
}

#[test]
fn an_answer_that_does_not_say_all_of_it_refuses() {
    let good = status(&[AUDIENCE], WEB, &[]);
    let check = |status: TokenReviewStatus, reason: &str| assert_eq!(verdict::caller(status), Err(reason.to_owned()));
    let no = "the API server does not accept it: ";
    check(TokenReviewStatus { authenticated: Some(false), ..good.clone() }, &format!("{no}it gives no reason"));
    check(TokenReviewStatus { authenticated: None, ..good.clone() }, &format!("{no}it gives no reason"));
    let expired = TokenReviewStatus { error: Some("it has expired".to_owned()), ..TokenReviewStatus::default() };
    check(expired, &format!("{no}it has expired"));
    let foreign = "the API server does not say that it is for \"istio-ca\"";
    check(TokenReviewStatus { audiences: None, ..good.clone() }, foreign);
    check(status(&["vault"], WEB, &[]), foreign);
    for user in ["admin", "system:node:n1", "system:serviceaccount:shop", "system:serviceaccount:shop:web:x", ""] {
        check(status(&[AUDIENCE], user, &[]), &format!("it is that of {user:?}, which is no service account"));
    }
    assert!(verdict::caller(status(&[AUDIENCE], "system:serviceaccount:Shop!:web", &[])).is_err());
    assert!(verdict::caller(TokenReviewStatus { user: None, ..good }).is_err());
    let half = "the API server says only half of which pod it is bound to";
    check(status(&[AUDIENCE], WEB, &[("pod-name", &["web"])]), half);
    check(status(&[AUDIENCE], WEB, &[("pod-uid", &["u"]), ("pod-name", &[""])]), half);
    let twice: [(&str, &[&str]); 2] = [("pod-name", &["web", "api"]), ("pod-uid", &["u"])];
    check(status(&[AUDIENCE], WEB, &twice), "the API server says several things as authentication.kubernetes.io/pod-name");
}

//! Proves that processes of one mind find each other whatever else calls, and that others are told apart. Each process is a thread here, on loopback.
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread::{JoinHandle, spawn};

use rand::{Rng, SeedableRng};

use super::*;
use crate::runtime::failure::{Cause, Failure, Reported};
use crate::runtime::recovery::Recovery;

/// Ports that were free a moment ago.
fn hosts(count: usize) -> Vec<String> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().to_string()).collect()
}

fn member(hosts: &[String], process: usize, secret: &str, seconds: u64) -> Membership {
    Membership { hosts: hosts.to_vec(), process, secret: Secret::of(secret), join: Duration::from_secs(seconds) }
}

fn word(flow: &str) -> Word {
    [("flow".to_owned(), flow.to_owned()), ("number of workers".to_owned(), "2".to_owned())].into()
}

fn joining(membership: Membership, word: Word) -> JoinHandle<Result<Links, JoinError>> {
    spawn(move || join(&membership, &word))
}

/// All of them, or what each was refused with.
fn all(members: Vec<(Membership, Word)>) -> Vec<Result<Links, JoinError>> {
    let threads: Vec<_> = members.into_iter().map(|(membership, word)| joining(membership, word)).collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn a_hosts_file_has_one_process_a_line() {
    assert_eq!(
        parse("# ours\n\n a:1 # the first\nb.example:65535\n[::1]:7\n").unwrap(),
        ["a:1", "b.example:65535", "[::1]:7"]
    );
    for (text, why) in [
        ("", "names no"),
        ("a\n", "line 1"),
        ("a:1\n:2\n", "line 2"),
        ("a:0\n", "not host:port"),
        ("a:65536\n", "not host:port"),
        ("a:1 b:2\n", "not host:port"),
        ("a:1\nb:1\na:1\n", "line 3: \"a:1\" is listed twice"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.contains(why), "{text:?}: {error}");
    }
    let many: String = (1..=PROCESSES_MAX + 1).map(|port| format!("a:{port}\n")).collect();
    assert!(parse(&many).unwrap_err().contains("at most"));
    assert!(is_loopback("localhost:1") && is_loopback("127.0.0.3:1") && is_loopback("[::1]:1"));
    assert!(!is_loopback("10.0.0.1:1") && !is_loopback("localhost.example:1"));
}

#[test]
fn processes_on_several_machines_need_a_secret() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let (far, near) = (path("far", "10.0.0.1:1\n10.0.0.2:1\n"), path("near", "127.0.0.1:1\nlocalhost:2\n"));
    let (good, short) = (path("good", " 0123456789abcdef\n"), path("short", "0123456789abcde\n"));
    let read = |hosts, process, secret| Membership::read(hosts, process, secret, Duration::ZERO).map(|_| ());
    assert!(read(&far, 0, None).unwrap_err().contains("--secret-file"));
    assert_eq!((read(&far, 1, Some(&good)), read(&near, 1, None)), (Ok(()), Ok(())));
    assert!(read(&far, 1, Some(&short)).unwrap_err().contains("fewer than 16"));
    assert!(read(&far, 2, Some(&good)).unwrap_err().contains("processes 0 to 1"));
}

#[test]
fn processes_find_each_other_in_whatever_order_they_start_and_whoever_else_calls() {
    let hosts = hosts(3);
    let first = joining(member(&hosts, 2, "a secret that is long", 20), word("bp"));
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(7);
    let second = joining(member(&hosts, 0, "a secret that is long", 20), word("bp"));
    // Strangers: one that is silent, one that hangs up, some that send garbage, one that knows the magic and announces four gigabytes.
    let mut strangers = Vec::new();
    for number in 0..20 {
        let mut stranger = loop {
            match TcpStream::connect(&hosts[0]) {
                Ok(stream) => break stream,
                Err(_) => std::thread::sleep(RETRY_EVERY),
            }
        };
        let mut garbage = vec![0; 1 << number.min(12)];
        random.fill_bytes(&mut garbage);
        if number == 2 {
            garbage = [&b"WNDKSL\x00\x01"[..], &[0xff; 72]].concat();
        }
        let _ = if number > 1 { stranger.write_all(&garbage) } else { stranger.shutdown(Shutdown::Write) };
        strangers.push(stranger);
    }
    let third = joining(member(&hosts, 1, "a secret that is long", 20), word("bp"));
    for joined in [first, second, third] {
        joined.join().unwrap().unwrap();
    }
}

#[test]
fn one_that_was_started_differently_is_refused_and_told_what_differs() {
    let hosts = hosts(2);
    let secret = "a secret that is long";
    let joined = all(vec![(member(&hosts, 0, secret, 20), word("bp")), (member(&hosts, 1, secret, 20), word("labs"))]);
    let texts: Vec<String> = joined.into_iter().map(|joined| joined.unwrap_err().to_string()).collect();
    let of = |process: usize, there: &str, here: &str| {
        format!("process {process} ({}) was started with another flow: there {there}, here {here};", hosts[process])
    };
    assert!(texts[0].starts_with(&of(1, "labs", "bp")), "{}", texts[0]);
    assert!(texts[1].starts_with(&of(0, "bp", "labs")), "{}", texts[1]);
}

#[test]
fn another_secret_is_refused() {
    let hosts = hosts(2);
    let joined = all(vec![
        (member(&hosts, 0, "a secret that is long", 1), word("bp")),
        (member(&hosts, 1, "another secret, as long", 1), word("bp")),
    ]);
    let [Err(JoinError::Missing(zero)), Err(JoinError::Differs(one))] = &joined[..] else { panic!("{joined:?}") };
    assert!(zero.contains("process 1") && zero.contains("another cluster secret"), "{zero}");
    assert!(one.contains("process 0") && one.contains("another cluster secret"), "{one}");
}

#[test]
fn who_did_not_come_is_named() {
    let hosts = hosts(3);
    let joined = all(vec![(member(&hosts, 0, "", 1), word("bp")), (member(&hosts, 2, "", 1), word("bp"))]);
    for joined in joined {
        let Err(JoinError::Missing(why)) = joined else { panic!("{joined:?}") };
        assert!(why.contains(&format!("process 1 ({}) did not join", hosts[1])), "{why}");
    }
}

#[test]
fn a_caller_cannot_hand_back_the_proof_that_it_was_given() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let secret = Secret::of("a secret that is long");
    let hello = Hello { process: 0, purpose: Purpose::Data, word: word("bp") };
    let mirror = spawn(move || {
        // Calls the answerer with its own nonce and whatever it says.
        let mut stream = TcpStream::connect(address).unwrap();
        let mut own = [0; 40];
        stream.write_all(&[&b"WNDKSL\x00\x01"[..], &[3; 32]].concat()).unwrap();
        stream.read_exact(&mut own).unwrap();
        stream.write_all(&own[..32]).unwrap();
        let mut answer = [9];
        stream.read_exact(&mut answer).unwrap();
        answer
    });
    let (mut stream, _) = listener.accept().unwrap();
    let refused = handshake::answer(&mut stream, &secret, &hello, HANDSHAKE_MAX);
    assert!(matches!(refused, Err(Refusal::Secret)), "{refused:?}");
    assert_eq!(mirror.join().unwrap(), [0]);
}

#[test]
fn a_caller_that_sends_a_byte_now_and_then_does_not_last() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut slow = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let dripping = spawn(move || {
        while slow.write_all(b"W").is_ok() {
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    let hello = Hello { process: 0, purpose: Purpose::Data, word: Word::new() };
    let begun = Instant::now();
    assert!(handshake::answer(&mut stream, &Secret::none(), &hello, Duration::from_millis(200)).is_err());
    assert!(begun.elapsed() < HANDSHAKE_MAX);
    drop(stream);
    dripping.join().unwrap();
}

/// The sides of two joined processes, with what each would report.
fn two(silence: Duration) -> [(Peers, Failure); 2] {
    let hosts = hosts(2);
    let members = [0, 1].map(|process| member(&hosts, process, "", 20));
    let joined = all(members.iter().map(|member| (member.clone(), word("bp"))).collect());
    let mut joined = joined.into_iter().zip(members).map(|(links, membership)| {
        let (mut links, failure) = (links.unwrap(), Failure::default());
        let waits = membership.process == 1;
        let peers = Peers::start(&mut links, &membership, silence, failure.clone(), move || waits).unwrap();
        (peers, failure)
    });
    [joined.next().unwrap(), joined.next().unwrap()]
}

fn until(what: &str, test: impl Fn() -> bool) {
    let begun = Instant::now();
    while !test() {
        assert!(begun.elapsed() < Duration::from_secs(20), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn process_0_is_heard_all_meet_and_each_leaves_in_order() {
    let [(zero, first), (one, second)] = two(Duration::from_secs(10));
    let told = Recovery { generation: 7, ..Recovery::default() }.to_tell(vec!["bp-obs".into()], "log/1".into());
    zero.tell(told.clone());
    assert_eq!(one.hear().unwrap(), told);
    let waiting = one.clone();
    let met = spawn(move || waiting.meet());
    zero.meet().unwrap();
    met.join().unwrap().unwrap();
    until("the beat says that process 1 waits", || zero.wait_for_the_outside());
    assert!(!one.wait_for_the_outside());
    one.leave();
    until("process 1 waits no more", || !zero.wait_for_the_outside());
    zero.leave();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!((first.reported(), second.reported()), (None, None));
}

#[test]
fn a_wait_ends_when_the_run_has_failed() {
    let [(zero, first), (one, _second)] = two(Duration::from_secs(10));
    one.lost(0, "as the test says");
    let error = one.hear().unwrap_err();
    assert_eq!(error.cause, Cause::Outside);
    assert!(error.text.contains("process 0") && error.text.contains("as the test says"), "{}", error.text);
    first.report("something".into());
    assert_eq!(zero.meet().unwrap_err().text, "something");
}

#[test]
fn one_that_fails_tells_the_others_why() {
    let [(_zero, first), (one, second)] = two(Duration::from_secs(10));
    second.report("no room".into());
    one.fail(&second.reported().unwrap());
    until("process 0 hears of it", || first.happened());
    let text = first.reported().unwrap().text;
    assert!(text.starts_with("process 1 (") && text.ends_with("has ended: no room"), "{text}");
}

#[test]
fn one_that_was_stopped_blames_itself() {
    let [(zero, failure), _one] = two(Duration::from_millis(50));
    zero.looked();
    assert_eq!(zero.stopped(), None);
    std::thread::sleep(Duration::from_millis(120));
    zero.lost(1, "it closed the connection");
    let reported = failure.reported().unwrap();
    assert_eq!(reported.cause, Cause::Stuck);
    assert!(reported.text.contains("was stopped"), "{}", reported.text);
}

/// The others said why they ended while it did not run: that is what it finds first when it goes on.
#[test]
fn one_that_was_stopped_does_not_believe_the_last_words_of_the_others() {
    let [(zero, failure), (one, _)] = two(Duration::from_millis(50));
    until("process 0 was not looked after for long enough", || zero.stopped().is_some());
    one.fail(&Reported { cause: Cause::Stuck, text: "process 0 was not heard of".into() });
    until("process 0 hears of it", || failure.happened());
    let reported = failure.reported().unwrap();
    assert_eq!(reported.cause, Cause::Stuck);
    assert!(reported.text.contains("this process was stopped"), "{}", reported.text);
}

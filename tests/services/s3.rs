//! State in a bucket: the store and the log against a server that speaks S3 (moto, from PyPI, in a virtual environment of its own).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use windkessel::config::StateSpec;
use windkessel::runtime::epoch_log::{Claim, Entry, EpochLog, LogError, Seal};
use windkessel::runtime::state_files;
use windkessel::runtime::store::{self, SharedStore};

use super::proxy::Proxy;
use super::servers::{Server, certify, s3, s3_over_tls};

/// A server with a bucket, and keys for it.
struct Bucket {
    server: Server,
    folder: tempfile::TempDir,
}

impl Bucket {
    fn new() -> Option<Bucket> {
        Some(Bucket::on(s3()?))
    }

    fn on(server: Server) -> Bucket {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("access"), "access-key\n").unwrap();
        std::fs::write(folder.path().join("secret"), "word-that-must-not-appear\n").unwrap();
        // Whom this client trusts is not what is tested.
        let trusting = ureq::tls::TlsConfig::builder().disable_verification(true).build();
        let agent: ureq::Agent = ureq::Agent::config_builder().tls_config(trusting).build().into();
        let made = agent.put(format!("{}/bucket", server.address)).send_empty().unwrap();
        assert_eq!(made.status(), 200);
        Bucket { server, folder }
    }

    fn open(&self, path: &str) -> SharedStore {
        store::open(&self.spec(path, None)).unwrap()
    }

    fn spec(&self, path: &str, ca_file: Option<PathBuf>) -> StateSpec {
        let file = |name: &str| Some(Path::new(self.folder.path()).join(name));
        StateSpec {
            path: path.into(),
            endpoint: Some(self.server.address.clone()),
            access_key_file: file("access"),
            secret_key_file: file("secret"),
            ca_file,
            ..StateSpec::default()
        }
    }
}

#[test]
fn a_bucket_keeps_the_contract_of_a_store() {
    let Some(bucket) = Bucket::new() else { return };
    let store = bucket.open("s3://bucket/some/prefix");
    assert_eq!(store.list("").unwrap(), [""; 0]);
    assert_eq!(store.get("log/1").unwrap(), None);
    store.delete("log/1").unwrap();
    assert!(store.create("log/1", b"one").unwrap());
    assert!(!store.create("log/1", b"other").unwrap());
    assert_eq!(store.get("log/1").unwrap().unwrap(), b"one");
    assert!(store.create("log/02", b"").unwrap());
    let large: Vec<u8> = (0..9_000_000_u32).map(|byte| byte as u8).collect();
    assert!(store.create("state/large", &large).unwrap());
    assert_eq!(store.get("state/large").unwrap().unwrap(), large);
    assert_eq!(store.get("log/02").unwrap().unwrap(), b"");
    assert_eq!(store.list("log/").unwrap(), ["log/02", "log/1"]);
    assert_eq!(store.list("log/1").unwrap(), ["log/1"]);
    assert_eq!(store.list("l").unwrap(), ["log/02", "log/1"]);
    // Another prefix is another store.
    let other = bucket.open("s3://bucket/some");
    assert_eq!(other.list("log/").unwrap(), [""; 0]);
    assert_eq!(other.list("prefix/log/").unwrap(), ["prefix/log/02", "prefix/log/1"]);
    // More than one page of a listing.
    let names: Vec<String> = (0..1_005).map(|number| format!("many/{number:04}")).collect();
    names.iter().for_each(|name| assert!(store.create(name, b"x").unwrap()));
    assert_eq!(store.list("many/").unwrap(), names);
    store.delete("log/1").unwrap();
    assert_eq!(store.get("log/1").unwrap(), None);
}

#[test]
fn a_bucket_over_tls_is_used_if_its_authority_is_trusted_and_else_refused() {
    let Some((server, authority)) = s3_over_tls() else { return };
    let bucket = Bucket::on(server);
    let store = store::open(&bucket.spec("s3://bucket/some", Some(authority.clone()))).unwrap();
    assert!(store.create("log/1", b"one").unwrap() && !store.create("log/1", b"other").unwrap());
    assert_eq!(store.get("log/1").unwrap().unwrap(), b"one");
    let error = bucket.open("s3://bucket/some").create("log/2", b"two").unwrap_err();
    assert!(!format!("{error:?}").contains("must-not-appear"), "{error}");
    assert_eq!(store.list("log/").unwrap(), ["log/1"], "nothing was sent to whom nobody trusts");
    std::fs::write(bucket.folder.path().join("empty.pem"), "").unwrap();
    let empty = store::open(&bucket.spec("s3://bucket/some", Some(bucket.folder.path().join("empty.pem"))));
    assert!(empty.err().unwrap().to_string().contains("it must be PEM"));
}

#[test]
fn a_bucket_whose_certificate_is_rotated_is_used_on_while_its_authority_stays() {
    let Some(server) = s3() else { return };
    let folder = tempfile::tempdir().unwrap();
    let certificate = || {
        certify(folder.path());
        std::fs::read(folder.path().join("server.pem")).unwrap()
    };
    let first = certificate();
    let proxy = Proxy::start(0, &server.address);
    let bucket = Bucket::on(server);
    proxy.present(folder.path());
    let spec = StateSpec {
        endpoint: Some(format!("https://{}", proxy.address)),
        ..bucket.spec("s3://bucket/some", Some(folder.path().join("authority.pem")))
    };
    let store = store::open(&spec).unwrap();
    assert!(store.create("log/1", b"one").unwrap());
    assert_ne!(certificate(), first);
    proxy.present(folder.path());
    assert!(store.create("log/2", b"two").unwrap());
    // A new authority is not looked for while running: what cannot be reached is tried again, and a start reads the file.
    std::fs::remove_file(folder.path().join("authority.pem")).unwrap();
    certificate();
    proxy.present(folder.path());
    let error = store.create("log/3", b"three").unwrap_err();
    assert!(error.may_be_retried(), "{error}");
    let again = store::open(&spec).unwrap();
    assert!(again.create("log/3", b"three").unwrap());
    assert_eq!(again.list("log/").unwrap(), ["log/1", "log/2", "log/3"]);
}

#[test]
fn a_bucket_that_is_not_there_or_does_not_answer_is_told_apart() {
    let Some(mut bucket) = Bucket::new() else { return };
    let missing = bucket.open("s3://none/prefix");
    let error = missing.create("log/1", b"one").unwrap_err();
    assert!(!error.may_be_retried() && error.to_string().contains("no such bucket"), "{error}");
    let store = bucket.open("s3://bucket/prefix");
    assert!(store.create("log/1", b"one").unwrap());
    bucket.server.kill();
    for error in [store.create("log/2", b"two").unwrap_err(), store.list("log/").unwrap_err()] {
        assert!(error.may_be_retried(), "{error}");
        assert!(!format!("{error:?}").contains("must-not-appear"), "{error}");
    }
}

#[test]
fn a_log_in_a_bucket_fences_and_is_found_again() {
    let Some(bucket) = Bucket::new() else { return };
    let store = bucket.open("s3://bucket");
    let take_over = || {
        let (topics, digests) = (vec!["bp-obs".to_owned()], BTreeMap::new());
        let seal = Seal { generation: 0, workers: 2, processes: 1, topics, digests, replay: false };
        EpochLog::take_over(store.clone(), |_| Ok(seal.clone())).unwrap()
    };
    let claims = |epoch| Entry::Claims(vec![Claim { epoch, starts: vec![], cuts: vec![], marks: vec![] }]);
    let (mut old, _) = take_over();
    old.append(&claims(1)).unwrap();
    let name = state_files::name(1, 1, 0, "patient");
    let mut file = state_files::Encoder::new("patient", 1, None, Vec::new());
    file.add(3, b"state", &mut state_files::Packer::new().unwrap());
    let written = file.finish();
    assert!(store.create(&name, &written).unwrap());
    let part = state_files::part(&name, &written);
    let (mut new, history) = take_over();
    assert_eq!((history.generation, history.last_epoch), (2, Some(1)));
    assert_eq!(old.append(&claims(2)), Err(LogError::Fenced { generation: 1, by: 2 }));
    new.append(&claims(3)).unwrap();
    assert_eq!(take_over().1.claims.iter().map(|claim| claim.epoch).collect::<Vec<_>>(), [1, 3]);
    let bytes = store.get(&name).unwrap().unwrap();
    let mut found = 0;
    state_files::decode(
        &name,
        &bytes,
        &part,
        None,
        |_| true,
        |route, _, _| {
            found = route;
            Ok(())
        },
    )
    .unwrap();
    assert_eq!(found, 3);
}

//! Proves that nothing is lost, and memory stays bounded, when something between the run and a server changes: a certificate is rotated while documents are
//! written, a broker becomes slow and stands still.

use std::time::Duration;

use crate::flows::{Stage, accounted, waiting};
use crate::proxy::Proxy;
use crate::servers::{certify, servers};
use crate::support::{DEADLINE, Running, finish};

/// The server has its new certificate first, of another authority; then the file of those that are trusted is emptied, as by somebody who writes it
/// anew; then the new authority stands in it.
#[test]
fn a_certificate_that_is_rotated_while_documents_are_written_loses_none() {
    let Some(servers) = servers("a_certificate_that_is_rotated_while_documents_are_written_loses_none") else { return };
    let stage = Stage::new("rotated", &servers);
    let folder = tempfile::tempdir().unwrap();
    let [old, new] = ["old", "new"].map(|name| folder.path().join(name));
    for place in [&old, &new] {
        std::fs::create_dir(place).unwrap();
        certify(place);
    }
    let trusted = folder.path().join("trusted.pem");
    std::fs::copy(old.join("authority.pem"), &trusted).unwrap();
    let proxy = Proxy::start(0, &servers.elasticsearch.address);
    proxy.present(&old);
    // The topic, before anybody asks for it.
    finish(&mut stage.generate(1, 0)).succeeded();
    let generator = Running::start(&mut stage.generate(20_000, 1_000));
    let mut command = stage.run_on(2);
    command.args(["--set", &format!("sink.elasticsearch.url=\"https://{}\"", proxy.address)]);
    let mut running = Running::start(command.args(["--set", &format!("sink.elasticsearch.ca_file={trusted:?}")]));
    let url = running.url();
    running.until("a part of the messages", |_| (accounted(&url) > 3_000.0).then_some(()));

    proxy.present(&new);
    running.until("a sink that does not trust", |running| {
        (waiting(&url) > 0.0 && running.err().contains("the certificate is not trusted")).then_some(())
    });
    std::fs::write(&trusted, "").unwrap();
    running.until("a look into the empty file", |running| {
        running.err().contains("could not read certificates and secrets again").then_some(())
    });
    std::fs::copy(new.join("authority.pem"), &trusted).unwrap();
    running.until("sinks that go on", |_| (waiting(&url) == 0.0).then_some(()));

    generator.wait(DEADLINE).succeeded();
    stage.stop_when_all_is_accounted_for(running, &url);
}

#[test]
fn a_broker_that_is_slow_and_then_stands_still_loses_nothing() {
    const NAME: &str = "a_broker_that_is_slow_and_then_stands_still_loses_nothing";
    let Some(servers) = servers(NAME) else { return };
    let Some((port, target)) = &servers.kafka.proxied else {
        eprintln!("SKIPPED {NAME}: the broker at {} tells nobody of a proxy", servers.kafka.address);
        return;
    };
    let stage = Stage::new("slow-broker", &servers);
    finish(&mut stage.generate(30_000, 0)).succeeded();
    let messages = stage.messages().len() as f64;
    let proxy = Proxy::start(*port, target);
    proxy.slow_down(96 << 10);
    let mut command = stage.run_on(2);
    let mut running = Running::start(command.args(["--set", &format!("source.brokers={:?}", proxy.address)]));
    let url = running.url();
    let part = running.until("a part of the messages", |_| Some(accounted(&url)).filter(|count| *count > 1_000.0));
    proxy.stand_still(true);
    // Longer than a fetch waits, shorter than a request.
    std::thread::sleep(Duration::from_secs(8));
    let still = accounted(&url);
    assert!(part < messages && still < messages, "it was slow: {part}, {still} of {messages}");
    proxy.slow_down(4 << 20);
    proxy.stand_still(false);
    stage.stop_when_all_is_accounted_for(running, &url);
}

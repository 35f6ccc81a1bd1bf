//! The whole program against a real Kafka, a real Elasticsearch, a real PostgreSQL and a server that speaks S3, which the tests start themselves.
//!
//! Where they cannot be had, each test says `SKIPPED` and passes; with `WINDKESSEL_REQUIRE_SERVICES=1` it fails.
//!
//! * [`audits`]: the history of scheduled audits in a real PostgreSQL.
//! * [`between`]: certificates that change, brokers that are slow.
//! * [`flows`]: every message is accounted for once, in every sink, also when a server is killed on the way.
//! * [`findings`]: what the audit's indices must hold.
//! * [`crash`]: the whole program, killed again and again.
//! * [`kafka_sink`]: a broker that dies while the Kafka sink publishes.
//! * [`kibana`]: what every panel shows.
//! * [`poison`]: what nobody should send.
//! * [`profile`]: a saved reference of a whole topic.
//! * [`clients`]: plain clients of the two servers.
//! * [`setup`]: what is put into Elasticsearch beforehand.
//! * [`s3`]: state in a bucket.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails as a test does")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

mod audits;
mod between;
mod clients;
mod crash;
mod findings;
mod flows;
mod kafka_sink;
mod kibana;
mod lens;
#[path = "../oracle/mod.rs"]
mod oracle;
mod poison;
mod profile;
mod proxy;
mod s3;
mod servers;
mod setup;
#[allow(dead_code, reason = "each of the two binaries uses a part of it")]
#[path = "../support/mod.rs"]
mod support;

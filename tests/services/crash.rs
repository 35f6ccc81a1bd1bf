//! Proves that a run from Kafka to every sink, which dies again and again, leaves what one leaves that never died.
//!
//! Judged by the oracle: Elasticsearch holds of each document what its last version says, a reader of committed records sees each assessed reading and
//! each dead letter once, Parquet and NDJSON hold each row once, and nothing that a dead run had handed out is contradicted.
//! `WINDKESSEL_KILLS` says how often it dies; a long run is 500 (`docs/hacking.md`). `WINDKESSEL_RATE` says how many observations come a second: on a slow machine
//! less, so that input goes on until the last death.

use std::time::Duration;

use windkessel::runtime::failpoint::PLACES;

use crate::flows::Stage;
use crate::servers::servers;
use crate::support::crash::{Blow, Random, Witness, strike};
use crate::support::{DEADLINE, Running, finish};

const KILLS: usize = 40;
/// Observations for each death: a run lives about two seconds.
const OBSERVATIONS_A_KILL: u32 = 1_200;
const RATE: u32 = 500;
const OFTEN: [&str; 5] =
    ["state.checkpoint_seconds=1", "state.base_every=3", "state.keep=2", "epoch.ms=20", "source.idle=\"2s\""];

#[test]
fn a_run_that_is_killed_again_and_again_leaves_every_row_once_in_every_sink() {
    const NAME: &str = "a_run_that_is_killed_again_and_again_leaves_every_row_once_in_every_sink";
    let Some(servers) = servers(NAME) else { return };
    let mut random = Random::seeded("services");
    let kills = std::env::var("WINDKESSEL_KILLS").map_or(KILLS, |text| text.parse().unwrap());
    let stage = Stage::new("killed-again", &servers);
    // The topic, before anybody asks for it.
    finish(&mut stage.generate(1, 0)).succeeded();
    let observations = OBSERVATIONS_A_KILL * u32::try_from(kills).unwrap();
    let rate = std::env::var("WINDKESSEL_RATE").map_or(RATE, |text| text.parse().unwrap());
    let mut generator = Running::start(&mut stage.generate(observations, rate));
    let mut witness = Witness::of(stage.data());
    for number in 0..kills {
        let mut command = stage.run_on(1 + random.below(4));
        command.args(OFTEN.iter().flat_map(|setting| ["--set", setting]));
        let blow = blow(number, &mut random);
        let struck = strike(&mut command, &stage.data(), &blow);
        witness.harvest();
        witness.glance();
        let input =
            if generator.ends_within(Duration::from_millis(1)) { "all input is there" } else { "input goes on" };
        eprintln!("{number}: {blow:?}: {struck:?}, {} files, {} lines, {input}", witness.names(), witness.promised());
    }
    generator.wait(DEADLINE + Duration::from_secs(u64::from(observations / rate))).succeeded();
    let mut last = stage.run_on(2);
    finish(last.args(OFTEN.iter().flat_map(|setting| ["--set", setting])).args(["--until", "end"])).succeeded();
    witness.conclude();
    assert!(witness.findings.kinds().is_empty(), "{:?}", witness.findings);
    stage.agree();
}

/// Every other one at a failpoint, those of the two servers more often.
fn blow(number: usize, random: &mut Random) -> Blow {
    match number % 4 {
        0 => Blow::Later(random.millis(0, 1_500)),
        2 => Blow::Kill(random.millis(50, 2_500)),
        1 => {
            let of_servers: Vec<&str> =
                PLACES.into_iter().filter(|place| place.starts_with("elastic") || place.starts_with("kafka")).collect();
            let place = of_servers[random.below(of_servers.len() as u64) as usize];
            Blow::Failpoint(format!("{place}:{}", 1 + random.below(12)))
        }
        _ => Blow::Failpoint(format!("{}:1", PLACES[random.below(PLACES.len() as u64) as usize])),
    }
}

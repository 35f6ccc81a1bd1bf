//! A loss of power at any moment of a job's life.

use super::*;
use crate::runtime::store::power_loss::Twin;

/// A day in the life of a job, with starts and pruning; says after every step what must be there from then on.
fn day(twin: &Twin, mut acknowledged: impl FnMut(&str)) -> Result<(), LogError> {
    for start in 1..=3_u64 {
        let store = twin.open()?;
        let (mut log, _) = take_over(&store)?;
        acknowledged("seal");
        for step in 1..=4 {
            let epoch = 100 * start + 10 * step;
            log.append(&claims([epoch - 1, epoch]))?;
            acknowledged("claims");
            log.append(&claims([epoch + 1]))?;
            acknowledged("claims");
            save(&store, &mut log, epoch, (step == 2).then(|| epoch - 10))?;
            acknowledged("checkpoint");
            log.prune(2)?;
        }
    }
    Ok(())
}

/// What a start would find after so many of the day's steps, from the unpruned list of them.
#[derive(Clone, Debug, Default, PartialEq)]
struct Expected {
    seals: usize,
    claims: Vec<Epoch>,
    checkpoints: Vec<Epoch>,
}

fn expected(steps: usize) -> Expected {
    let mut expected = Expected::default();
    let (mut step, mut start) = (0, 0);
    let mut names =
        std::iter::repeat(["seal"].into_iter().chain(["claims", "claims", "checkpoint"].repeat(4))).flatten();
    for _ in 0..steps {
        match names.next().unwrap() {
            "seal" => (start, step, expected.seals) = (start + 1, 0, expected.seals + 1),
            "claims" => {
                let epoch = 100 * start + 10 * (step / 2 + 1);
                expected.claims.extend(if step % 2 == 0 { vec![epoch - 1, epoch] } else { vec![epoch + 1] });
                step += 1;
            }
            _ => expected.checkpoints.push(100 * start + 10 * (step / 2)),
        }
    }
    expected
}

/// Asserts that a history is that of `expected` as far as it must be, and can be restored from any checkpoint it names.
fn assert_is(history: &History, expected: &Expected, store: &SharedStore, place: &str) {
    let kept: Vec<Epoch> = history.checkpoints.iter().map(|kept| kept.epoch).collect();
    assert!(expected.checkpoints.ends_with(&kept), "{place}: {kept:?} of {expected:?}");
    assert!(kept.len() >= expected.checkpoints.len().min(2), "{place}: {kept:?} of {expected:?}");
    let since = |epoch: Option<Epoch>| -> Vec<Epoch> {
        expected.claims.iter().copied().filter(|claim| epoch.is_none_or(|epoch| *claim > epoch)).collect()
    };
    assert_eq!(epochs(&history.claims), since(kept.last().copied()), "{place}");
    for checkpoint in &history.checkpoints {
        assert_eq!(epochs(&history.claims_since(checkpoint.epoch)), since(Some(checkpoint.epoch)), "{place}");
        let chain = history.chain(checkpoint);
        assert_eq!(chain[0].base, None, "{place}");
        for part in chain.iter().flat_map(|kept| &kept.parts) {
            assert_eq!(store.get(&part.name).unwrap().as_deref(), Some(&b"abc"[..]), "{place}: {}", part.name);
        }
    }
}

#[test]
fn after_a_loss_of_power_at_any_moment_a_start_finds_what_was_acknowledged() {
    let whole = Twin::new();
    let mut steps = 0;
    day(&whole, |_| steps += 1).unwrap();
    assert_eq!(steps, 39);
    for cut in 0..whole.operations() {
        let twin = Twin::new();
        twin.cut_after(cut);
        let mut done = 0;
        day(&twin, |_| done += 1).unwrap_err();
        for seed in 0..3 {
            let place = format!("cut {cut} seed {seed} done {done}");
            let store = twin.power_comes_back(seed).open().unwrap();
            let (_, history) = take_over(&store).unwrap_or_else(|error| panic!("{place}: {error}"));
            // The step that was under way may have come through.
            let (least, most) = (expected(done), expected(done + 1));
            let under_way = epochs(&history.claims_since(0)).last() == most.claims.last()
                && history.checkpoints.last().map(|kept| kept.epoch) == most.checkpoints.last().copied();
            assert_is(&history, if under_way { &most } else { &least }, &store, &place);
        }
    }
}

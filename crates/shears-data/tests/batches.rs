//! Batches cover every position once, and depend only on the step.

use proptest::prelude::*;
use shears_data::{
    Batch, DataError, EvaluationStreams, RandomWindows, StreamBatches, Tokens, evaluation_batches,
    split,
};

fn tokens_up_to(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
}

fn tokens(n: usize) -> Tokens {
    tokens_up_to(n)[..].into()
}

/// With tokens that are their own positions, targets are positions.
fn check(batch: &Batch) {
    assert_eq!(batch.inputs.len(), batch.batch * batch.window);
    assert!(
        batch
            .inputs
            .iter()
            .zip(&batch.targets)
            .all(|(input, target)| input + 1 == *target)
    );
}

proptest! {
    #[test]
    fn evaluation_covers_every_position_once(
        n in 2_usize..200, window in 1_usize..70, batch in 1_usize..9,
    ) {
        let mut targets = Vec::new();
        for part in evaluation_batches(&tokens(n), batch, window).unwrap() {
            check(&part);
            prop_assert!(part.batch <= batch && part.window <= window);
            prop_assert!(part.starts_stream);
            targets.extend(part.targets);
        }
        prop_assert_eq!(targets, (1..n as u32).collect::<Vec<_>>());
    }

    #[test]
    fn evaluation_streams_cover_every_position_once(
        n in 2_usize..300, parts in 0_usize..12, shortest in 0_usize..40, window in 1_usize..50,
    ) {
        let tokens = tokens(n);
        let streams = EvaluationStreams::new(&tokens, parts, shortest).unwrap();
        prop_assert!(streams.parts() <= parts);
        let mut targets = Vec::new();
        for (index, batch) in streams.head_batches(window).enumerate() {
            check(&batch);
            prop_assert!(batch.batch == 1 && batch.window <= window);
            prop_assert_eq!(batch.starts_stream, index == 0);
            targets.extend(batch.targets);
        }
        prop_assert!(!targets.is_empty());
        let head = targets[targets.len() - 1];
        // The first and the latest token of each row.
        let mut rows: Option<(Vec<u32>, Vec<u32>)> = None;
        let mut part = 0;
        for batch in streams.part_batches(window) {
            check(&batch);
            prop_assert_eq!(batch.batch, streams.parts());
            prop_assert!(!batch.starts_stream && batch.window <= window);
            let starts: Vec<u32> = batch.inputs.chunks(batch.window).map(|row| row[0]).collect();
            let ends = batch.targets.chunks(batch.window).map(|row| row[row.len() - 1]).collect();
            let first = match rows {
                Some((first, latest)) => {
                    prop_assert_eq!(latest, starts);
                    first
                }
                None => starts,
            };
            rows = Some((first, ends));
            part += batch.window;
            targets.extend(batch.targets);
        }
        if let Some((starts, ends)) = rows {
            prop_assert!(part >= shortest);
            prop_assert_eq!(starts[0], head);
            prop_assert_eq!(&starts[1..], &ends[..ends.len() - 1]);
        }
        targets.sort_unstable();
        prop_assert_eq!(targets, (1..n as u32).collect::<Vec<_>>());
    }

    #[test]
    fn streams_that_drop_their_ends_cover_each_position_at_most_once(
        n in 2_usize..400, window in 1_usize..20, batch in 1_usize..9,
    ) {
        let Ok(batches) = StreamBatches::new(tokens(n), batch, window) else {
            prop_assert!(n < batch * window + 1);
            return Ok(());
        };
        let batches = batches.dropping_ends();
        let stream = (n - 1) / batch;
        let epoch = batches.windows_per_epoch();
        prop_assert_eq!(epoch as usize, stream / window);
        let mut targets = Vec::new();
        for step in 0..epoch {
            let part = batches.batch_at(step);
            check(&part);
            prop_assert_eq!(part.starts_stream, step == 0);
            prop_assert_eq!(&part, &batches.batch_at(step + 3 * epoch));
            targets.extend(part.targets);
        }
        targets.sort_unstable();
        let place = |row, i| (row * stream + i + 1) as u32;
        let expected: Vec<u32> = (0..batch)
            .flat_map(|row| (0..stream / window * window).map(move |i| place(row, i)))
            .collect();
        prop_assert_eq!(targets, expected);
    }
}

proptest! {
    #[test]
    fn rows_are_the_first_of_their_batch(
        n in 2_usize..400, window in 1_usize..20, batch in 1_usize..9, most in 1_usize..12,
        step in 0_u64..1000,
    ) {
        let check = |all: Batch, rows: Batch| {
            assert_eq!(rows.batch, most.min(batch));
            let shown = rows.batch * window;
            assert_eq!(rows.inputs, all.inputs[..shown]);
            assert_eq!(rows.targets, all.targets[..shown]);
            assert_eq!(rows.starts_stream, all.starts_stream);
        };
        if let Ok(streams) = StreamBatches::new(tokens(n), batch, window) {
            check(streams.batch_at(step), streams.rows_at(step, most));
        }
        if let Ok(windows) = RandomWindows::new(tokens(n), batch, window, 7) {
            check(windows.batch_at(step), windows.rows_at(step, most));
        }
    }

    #[test]
    fn streams_cover_every_position(
        n in 2_usize..400, window in 1_usize..20, batch in 1_usize..40,
    ) {
        let Ok(batches) = StreamBatches::new(tokens(n), batch, window) else {
            prop_assert!(n < batch * window + 1);
            return Ok(());
        };
        let (epoch, epochs) = (batches.windows_per_epoch(), batches.epochs_of_all().unwrap());
        let dropping = batches.clone().dropping_ends();
        let mut seen = vec![0; n];
        for step in 0..epoch * epochs {
            let part = batches.batch_at(step);
            check(&part);
            prop_assert_eq!(part.starts_stream, step % epoch == 0);
            prop_assert_eq!(&part, &batches.batch_at(step + epoch * epochs));
            // The first epoch is as in the first versions.
            prop_assert!(step >= epoch || part == dropping.batch_at(step));
            for target in part.targets {
                seen[target as usize] += 1;
            }
            if step + 1 == epoch {
                let left = seen[1..].iter().filter(|times| **times == 0).count();
                prop_assert_eq!(left, batches.left_by_an_epoch());
                prop_assert_eq!(left == 0, epochs == 1);
                prop_assert_eq!(dropping.epochs_of_all(), (left == 0).then_some(1));
            }
        }
        prop_assert!(seen[1..].iter().all(|times| *times > 0), "{:?}", seen);
        // No position is read more than once in an epoch.
        prop_assert!(seen.iter().all(|times| *times <= epochs));
    }
}

/// Half of each stream fills no window: 4,951 tokens in 50 rows of 99.
#[test]
fn half_of_a_short_text_is_read_by_every_other_epoch() {
    let batches = StreamBatches::new(tokens(4951), 50, 50).unwrap();
    assert_eq!(batches.windows_per_epoch(), 1);
    assert_eq!(
        (batches.left_by_an_epoch(), batches.epochs_of_all()),
        (2450, Some(2))
    );
    let starts = |step| batches.batch_at(step).inputs[0];
    assert_eq!([0, 1, 2, 3].map(starts), [0, 49, 0, 49]);
    let dropping = batches.clone().dropping_ends();
    assert_eq!(dropping.epochs_of_all(), None);
    assert_eq!(dropping.batch_at(1), batches.batch_at(0));
}

#[test]
fn rows_continue_where_they_stopped() {
    let batches = StreamBatches::new(tokens(100), 3, 4).unwrap();
    let (first, second) = (batches.batch_at(0), batches.batch_at(1));
    for row in 0..3 {
        assert_eq!(first.targets[row * 4 + 3], second.inputs[row * 4]);
    }
}

#[test]
fn random_windows_are_a_function_of_seed_and_step() {
    let windows = RandomWindows::new(tokens(50), 4, 8, 7).unwrap();
    let sequential: Vec<Batch> = (0..200).map(|step| windows.batch_at(step)).collect();
    let again = RandomWindows::new(tokens(50), 4, 8, 7).unwrap();
    assert_eq!(again.batch_at(137), sequential[137]);
    assert_ne!(sequential[0], sequential[1]);
    assert_ne!(
        RandomWindows::new(tokens(50), 4, 8, 8).unwrap().batch_at(0),
        sequential[0]
    );
    let mut starts = [false; 42];
    for batch in &sequential {
        check(batch);
        assert!(batch.starts_stream);
        batch
            .inputs
            .chunks(8)
            .for_each(|row| starts[row[0] as usize] = true);
    }
    assert!(
        starts.iter().all(|seen| *seen),
        "first and last place are drawn"
    );
}

#[test]
fn the_smallest_text_has_one_window() {
    assert_eq!(
        RandomWindows::new(tokens(9), 1, 8, 0)
            .unwrap()
            .batch_at(5)
            .inputs,
        tokens_up_to(8)
    );
    assert_eq!(
        StreamBatches::new(tokens(9), 2, 4)
            .unwrap()
            .windows_per_epoch(),
        1
    );
}

#[test]
fn too_short_says_how_much_is_needed() {
    let error = StreamBatches::new(tokens(8), 2, 4).unwrap_err();
    assert!(matches!(
        error,
        DataError::TooShort {
            tokens: 8,
            needed: 9,
            batch: 2,
            window: 4
        }
    ));
    let message = error.to_string();
    assert!(
        message.contains("--batch") && message.contains("--window"),
        "{message}"
    );
    assert!(matches!(
        RandomWindows::new(tokens(8), 2, 8, 0).unwrap_err(),
        DataError::TooShort { needed: 9, .. }
    ));
    assert!(evaluation_batches(&tokens(1), 1, 1).is_err());
    assert!(EvaluationStreams::new(&tokens(1), 64, 256).is_err());
    assert!(StreamBatches::new(tokens(0), usize::MAX, usize::MAX).is_err());
    assert!(matches!(
        StreamBatches::new(tokens(8), 0, 4).unwrap_err(),
        DataError::ZeroSize { name: "batch" }
    ));
    assert!(evaluation_batches(&tokens(2), 1, 0).is_err());
}

#[test]
fn split_keeps_whole_characters() {
    assert_eq!(split("一二三四五六七八九十"), ("一二三四五六七八九", "十"));
    assert_eq!(split(""), ("", ""));
}

//! Every position once, the same batch for the same step.

use proptest::prelude::*;
use shears_data::{
    Batch, DataError, EvaluationStreams, RandomWindows, StreamBatches, evaluation_batches, split,
};

fn numbers(n: usize) -> Vec<u32> {
    (0..n as u32).collect()
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
        for part in evaluation_batches(&numbers(n), batch, window).unwrap() {
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
        let tokens = numbers(n);
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
    fn streams_cover_each_position_at_most_once(
        n in 2_usize..400, window in 1_usize..20, batch in 1_usize..9,
    ) {
        let Ok(batches) = StreamBatches::new(numbers(n), batch, window) else {
            prop_assert!(n < batch * window + 1);
            return Ok(());
        };
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

#[test]
fn rows_go_on_where_they_stopped() {
    let batches = StreamBatches::new(numbers(100), 3, 4).unwrap();
    let (first, second) = (batches.batch_at(0), batches.batch_at(1));
    for row in 0..3 {
        assert_eq!(first.targets[row * 4 + 3], second.inputs[row * 4]);
    }
}

#[test]
fn random_windows_are_a_function_of_seed_and_step() {
    let windows = RandomWindows::new(numbers(50), 4, 8, 7).unwrap();
    let sequential: Vec<Batch> = (0..200).map(|step| windows.batch_at(step)).collect();
    let again = RandomWindows::new(numbers(50), 4, 8, 7).unwrap();
    assert_eq!(again.batch_at(137), sequential[137]);
    assert_ne!(sequential[0], sequential[1]);
    assert_ne!(
        RandomWindows::new(numbers(50), 4, 8, 8)
            .unwrap()
            .batch_at(0),
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
        RandomWindows::new(numbers(9), 1, 8, 0)
            .unwrap()
            .batch_at(5)
            .inputs,
        numbers(8)
    );
    assert_eq!(
        StreamBatches::new(numbers(9), 2, 4)
            .unwrap()
            .windows_per_epoch(),
        1
    );
}

#[test]
fn too_short_says_how_much_is_needed() {
    let error = StreamBatches::new(numbers(8), 2, 4).unwrap_err();
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
        RandomWindows::new(numbers(8), 2, 8, 0).unwrap_err(),
        DataError::TooShort { needed: 9, .. }
    ));
    assert!(evaluation_batches(&[1], 1, 1).is_err());
    assert!(EvaluationStreams::new(&[1], 64, 256).is_err());
    assert!(StreamBatches::new(numbers(0), usize::MAX, usize::MAX).is_err());
    assert!(matches!(
        StreamBatches::new(numbers(8), 0, 4).unwrap_err(),
        DataError::ZeroSize { name: "batch" }
    ));
    assert!(evaluation_batches(&[1, 2], 1, 0).is_err());
}

#[test]
fn split_keeps_whole_characters() {
    assert_eq!(split("一二三四五六七八九十"), ("一二三四五六七八九", "十"));
    assert_eq!(split(""), ("", ""));
}

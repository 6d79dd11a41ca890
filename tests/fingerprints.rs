//! The fingerprint on a labelled corpus: messages of one cause belong together, messages of different causes do not.
//! `tests/data/failures.jsonl` has a line per message; its causes are split into those the rules were tuned on and those
//! that were held back.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use slugline::model::fingerprint::{self, Class};

#[derive(Debug, Deserialize)]
struct Line {
    cause: String,
    set: String,
    text: String,
}

fn corpus() -> Vec<Line> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/failures.jsonl");
    let text = std::fs::read_to_string(path).expect("the corpus is there");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

struct Score {
    recall: f64,
    false_merges: f64,
    split: Vec<String>,
    merged: Vec<String>,
}

/// Every pair of messages: those of one cause that got one fingerprint, and those of two that got one all the same.
fn score(lines: &[&Line]) -> Score {
    let found: Vec<String> = lines.iter().map(|line| fingerprint::of(&line.text).id).collect();
    let (mut together, mut apart, mut wrong) = (0_u32, 0_u32, 0_u32);
    let (mut split, mut merged) = (HashSet::new(), HashSet::new());
    for a in 0..lines.len() {
        for b in a + 1..lines.len() {
            match (lines[a].cause == lines[b].cause, found[a] == found[b]) {
                (true, true) => together += 1,
                (true, false) => {
                    apart += 1;
                    split.insert(lines[a].cause.clone());
                }
                (false, true) => {
                    wrong += 1;
                    merged.insert(format!("{} = {}", lines[a].cause, lines[b].cause));
                }
                (false, false) => {}
            }
        }
    }
    Score {
        recall: f64::from(together) / f64::from(together + apart),
        false_merges: f64::from(wrong) / f64::from((together + wrong).max(1)),
        split: split.into_iter().collect(),
        merged: merged.into_iter().collect(),
    }
}

/// With `TEST_SHOW=tune` the normalized messages of every cause that was split or merged are printed.
fn show(lines: &[&Line], score: &Score) {
    for line in lines {
        if score.split.contains(&line.cause) || score.merged.iter().any(|pair| pair.contains(&line.cause)) {
            let explained = fingerprint::explain(&line.text, slugline::model::time::Timestamp::from_ms(0));
            println!("--- {}\n{}", line.cause, explained.normalized);
        }
    }
}

#[test]
fn one_cause_has_one_fingerprint_and_two_causes_have_two() {
    let corpus = corpus();
    assert!(corpus.len() >= 300, "{} messages", corpus.len());
    let texts: HashSet<&str> = corpus.iter().map(|line| line.text.as_str()).collect();
    assert_eq!(texts.len(), corpus.len(), "a message stands there twice");
    for set in ["tune", "held", ""] {
        let lines: Vec<&Line> = corpus.iter().filter(|line| set.is_empty() || line.set == set).collect();
        let score = score(&lines);
        println!(
            "{:5} {} messages: recall {:.2} %, false merges {:.2} %, split {:?}, merged {:?}",
            if set.is_empty() { "all" } else { set },
            lines.len(),
            score.recall * 100.0,
            score.false_merges * 100.0,
            score.split,
            score.merged
        );
        if std::env::var("TEST_SHOW").is_ok_and(|shown| shown == set) {
            show(&lines, &score);
        }
        assert!(score.recall >= 0.95, "{set}: recall {:.4}: {:?}", score.recall, score.split);
        assert!(score.false_merges <= 0.01, "{set}: false merges {:.4}: {:?}", score.false_merges, score.merged);
    }
}

#[test]
fn a_providers_trouble_is_told_from_the_works() {
    let of_provider: BTreeMap<String, bool> = corpus()
        .iter()
        .map(|line| (line.cause.clone(), fingerprint::of(&line.text).class != Class::Ordinary))
        .collect();
    for (cause, is_providers) in of_provider {
        let expected = ["rate-limit", "overloaded", "quota"].iter().any(|word| cause.contains(word));
        if is_providers != expected {
            println!("{cause}: provider {is_providers}");
        }
    }
}

//! The fingerprint on a labelled corpus: messages of one cause belong together, messages of different causes do not.
//! `tests/data/failures.jsonl` has a line per message; its causes are split into those the rules were tuned on and those
//! that were held back.

use std::collections::HashSet;

use proptest::prelude::*;
use serde::Deserialize;
use slugline::model::fingerprint;
use slugline::model::time::Timestamp;

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
            let explained = fingerprint::explain(&line.text, Timestamp::from_ms(0));
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
    for set in ["tune", "held", "fresh", ""] {
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
    const RATE_LIMITS: [&str; 5] = [
        "llm-anthropic-429-rate-limit",
        "llm-openai-rate-limit-rpd",
        "llm-openai-rate-limit-tpm",
        "llm-weekly-quota-exceeded",
        "http-429-forge-api-tasks",
    ];
    const PROVIDERS: [&str; 1] = ["llm-anthropic-529-overloaded"];
    for Line { cause, text, .. } in corpus() {
        let class = fingerprint::of(&text).class;
        let expected = match cause.as_str() {
            cause if RATE_LIMITS.contains(&cause) => "rate_limit",
            cause if PROVIDERS.contains(&cause) => "provider",
            _ => "ordinary",
        };
        assert_eq!(class.as_str(), expected, "{cause}: {text}");
    }
}

#[test]
fn the_time_a_provider_names_is_read_in_all_its_spellings() {
    let now = Timestamp::from_ms(1_795_255_200_000);
    for (text, after_ms) in [
        ("429 Too Many Requests (retry after 37s)", Some(37_000)),
        ("rate limit reached, please try again in 6m12s", Some(372_000)),
        ("rate_limit_error: retry-after: 90", Some(90_000)),
        ("Rate limit reached for requests. Please try again in 850ms.", Some(850)),
        ("quota exceeded, resets in 2 hours", Some(7_200_000)),
        ("usage limit reached; resets at 2026-11-21T10:20:00Z", Some(1_200_000)),
        ("usage limit reached; resets at 2026-11-21 10:20 UTC", Some(1_200_000)),
        ("overloaded_error", None),
    ] {
        let reset = fingerprint::of(text).class.reset().unwrap_or_else(|| panic!("{text} is no provider's trouble"));
        assert_eq!(reset.map(|reset| reset.after_ms(now)), after_ms, "{text}");
    }
    assert_eq!(Timestamp::from_ms(1_795_255_200_000).to_string(), "2026-11-21T10:00:00.000Z");
}

#[test]
fn every_message_can_be_explained_to_the_same_fingerprint() {
    for Line { text, .. } in corpus() {
        let explained = fingerprint::explain(&text, Timestamp::from_ms(0));
        assert_eq!(explained.fingerprint, fingerprint::of(&text).id);
        assert!(!explained.normalized.is_empty() && explained.version == fingerprint::VERSION);
    }
}

proptest! {
    #[test]
    fn no_text_is_too_strange_to_be_recognised(text in "\\PC{0,400}") {
        let found = fingerprint::of(&text);
        prop_assert_eq!(&found, &fingerprint::of(&text));
        prop_assert!(found.id.starts_with("v1-") && found.id.len() == 27);
    }
}

//! How much a test does: little in the test command, more every night, most before a release. `TEST_TIER` says which of
//! the three, `./test --nightly` and `./test --release` set it; a variable of a size's own name wins over the tier.

#![allow(dead_code, reason = "not every test binary has sizes and chance")]

/// The size of the tier that runs: `[in the test command, every night, before a release]`, or what the variable `name` says.
pub fn size(name: &str, tiers: [u64; 3]) -> u64 {
    let size = number(name).unwrap_or_else(|| match std::env::var("TEST_TIER").as_deref() {
        Err(_) | Ok("" | "pr") => tiers[0],
        Ok("nightly") => tiers[1],
        Ok("release") => tiers[2],
        Ok(other) => panic!("TEST_TIER is {other:?}; it is pr, nightly or release"),
    });
    println!("{name}={size}");
    size
}

/// The seed of a run, printed so that the run can be had again with `TEST_SEED`; left to chance when there is no default.
pub fn seed(default: Option<u64>) -> u64 {
    let seed = number("TEST_SEED").or(default).unwrap_or_else(|| u64::from(std::process::id()));
    println!("TEST_SEED={seed}");
    seed
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is {text:?}; it is a number")))
}

/// A small generator, so that a seed gives the same choices again.
#[derive(Debug, Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0 to below the limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }

    /// One of these.
    pub fn one_of<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.below(of.len() as u64)).unwrap_or(0)]
    }
}

//! Processes by what is in the environment they were started with, as the system tells it.

/// Live processes with a variable (`NAME=value`) of which this is true.
pub fn marked(is_ours: impl Fn(&[u8]) -> bool) -> Vec<i32> {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(&is_ours)
    })
    .collect()
}

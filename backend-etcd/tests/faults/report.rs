//! What a fault came to: one row of a table.

use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Names the file that the only row of this process goes to, beside the table.
pub(crate) const ROW_FILE: &str = "FAULTS_ROW_FILE";

/// How it went.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) fault: String,
    /// Until the registration was back, or had rightly ended.
    pub(crate) registered: Option<Duration>,
    /// Until the view was right.
    pub(crate) right: Duration,
    /// Whether the lease was kept; `None` where the registration has ended.
    pub(crate) kept: Option<bool>,
}

impl Row {
    /// Reads what another process has written to its [`ROW_FILE`].
    pub(crate) fn read(file: &Path) -> Self {
        serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()
    }

    fn print(&self) {
        let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
        let registered = self.registered.map_or("-".to_owned(), seconds);
        let kept = self.kept.map_or("-", |kept| if kept { "yes" } else { "no" });
        print(&self.fault, &registered, &seconds(self.right), kept);
    }
}

fn print(fault: &str, registered: &str, right: &str, kept: &str) {
    println!("{fault:78} {registered:>11} {right:>11} {kept:>6}");
}

/// The rows of this run, in the order of the faults.
#[derive(Debug, Default)]
pub(crate) struct Table(Mutex<Vec<(usize, Row)>>);

impl Table {
    /// Adds the row of the fault with this number.
    pub(crate) fn add(&self, number: usize, row: Row) {
        if let Some(file) = std::env::var_os(ROW_FILE) {
            std::fs::write(file, serde_json::to_vec(&row).unwrap()).unwrap();
        }
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push((number, row));
    }

    /// Prints the faults that were survived.
    pub(crate) fn print(&self) {
        let mut rows = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        rows.sort_by_key(|(number, _)| *number);
        print("fault", "registered", "view right", "lease");
        rows.iter().for_each(|(_, row)| row.print());
    }
}

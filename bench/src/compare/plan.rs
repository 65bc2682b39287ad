//! Which loads are measured.

use crate::cell::Cell;

/// Each combination of what is given is measured; without any of these, a selection.
#[derive(Debug, clap::Args)]
pub(super) struct Arguments {
    /// Numbers of servers.
    #[arg(long, value_delimiter = ',')]
    servers: Vec<usize>,
    /// Numbers of calls in flight.
    #[arg(long, value_delimiter = ',')]
    callers: Vec<u64>,
    /// Bytes of a message.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<u32>,
    /// Messages of a response.
    #[arg(long, value_delimiter = ',')]
    messages: Vec<u32>,
    /// Threads of the client.
    #[arg(long, value_delimiter = ',')]
    threads: Vec<usize>,
    /// Whether calls have a deadline: `false`, `true` or both.
    #[arg(long, value_delimiter = ',')]
    deadline: Vec<bool>,
    /// Whether connections have TLS: `false`, `true` or both.
    #[arg(long, value_delimiter = ',')]
    tls: Vec<bool>,
}

impl Arguments {
    pub(super) fn cells(&self) -> Vec<Cell> {
        let given = [self.servers.is_empty(), self.callers.is_empty(), self.sizes.is_empty()];
        let given = given.into_iter().chain([self.messages.is_empty(), self.threads.is_empty()]);
        if given.chain([self.deadline.is_empty(), self.tls.is_empty()]).all(|is_empty| is_empty) {
            return selection();
        }
        let mut cells = vec![Cell::BASE];
        vary(&mut cells, &self.servers, |cell, servers| cell.servers = servers);
        vary(&mut cells, &self.threads, |cell, threads| cell.threads = threads);
        vary(&mut cells, &self.callers, |cell, callers| cell.callers = callers);
        vary(&mut cells, &self.sizes, |cell, size| cell.size = size);
        vary(&mut cells, &self.messages, |cell, messages| cell.messages = messages);
        vary(&mut cells, &self.deadline, |cell, deadline| cell.deadline = deadline);
        vary(&mut cells, &self.tls, |cell, tls| cell.tls = tls);
        cells
    }
}

/// Each property alone, away from one load in the middle of all.
fn selection() -> Vec<Cell> {
    let base = Cell::BASE;
    let mut cells = vec![
        Cell { callers: 1, ..base },
        base,
        Cell { callers: 128, ..base },
        Cell { threads: 2, callers: 16, ..base },
        Cell { threads: 2, callers: 128, ..base },
    ];
    cells.extend([1, 100, 1000].map(|servers| Cell { servers, ..base }));
    cells.extend([1024, 65_536].map(|size| Cell { size, ..base }));
    cells.extend([Cell { messages: 100, ..base }, Cell { messages: 100, size: 1024, ..base }]);
    cells.extend([Cell { deadline: true, ..base }, Cell { tls: true, ..base }]);
    cells
}

/// Replaces each of the cells by one for each of these values, if there are any.
fn vary<T: Copy>(cells: &mut Vec<Cell>, values: &[T], set: impl Fn(&mut Cell, T)) {
    if values.is_empty() {
        return;
    }
    let varied = cells.iter().flat_map(|cell| values.iter().map(move |value| (*cell, *value)));
    *cells = varied
        .map(|(mut cell, value)| {
            set(&mut cell, value);
            cell
        })
        .collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_combinations_of_what_is_given_are_measured() {
        let mut cells = vec![Cell::BASE];
        vary(&mut cells, &[1, 3], |cell, servers| cell.servers = servers);
        vary(&mut cells, &[], |cell, callers| cell.callers = callers);
        vary(&mut cells, &[true, false], |cell, deadline| cell.deadline = deadline);
        let cells: Vec<_> = cells.iter().map(|cell| (cell.servers, cell.callers, cell.deadline)).collect();
        assert_eq!(cells, [(1, 16, true), (1, 16, false), (3, 16, true), (3, 16, false)]);
    }
}

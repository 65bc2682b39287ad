//! Servers that are not connected to until the test lets them.

use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use hither_tonic::{Connected, Connector, Destination};
use tokio::sync::watch;

use super::Net;

/// Connects to servers whose name begins with this letter only while it is open, and to all others. A clone is the same gate.
#[derive(Debug, Clone)]
pub(crate) struct Gate {
    net: Net,
    letter: char,
    is_open: Arc<watch::Sender<bool>>,
}

impl Gate {
    pub(crate) fn closed(net: &Net, letter: char) -> Self {
        Self { net: net.clone(), letter, is_open: Arc::new(watch::channel(false).0) }
    }

    pub(crate) fn open(&self) {
        self.is_open.send_replace(true);
    }

    pub(crate) fn close(&self) {
        self.is_open.send_replace(false);
    }
}

#[async_trait]
impl Connector for Gate {
    async fn connect(&self, destination: Destination<'_>) -> io::Result<Connected> {
        if destination.address().to_string().starts_with(self.letter) {
            self.is_open.subscribe().wait_for(|is_open| *is_open).await.unwrap();
        }
        self.net.connect(destination).await
    }
}

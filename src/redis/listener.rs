//! A connection that hears hints from other processes. Any of them may be lost, so nothing may depend on one.

use fred::clients::SubscriberClient;
use fred::interfaces::ClientLike;

use super::reply::text_of;

/// Hints from other processes.
pub(crate) struct Listener {
    pub(super) client: SubscriberClient,
    pub(super) messages: tokio::sync::broadcast::Receiver<fred::types::Message>,
    pub(super) manager: tokio::task::JoinHandle<()>,
}

impl Listener {
    /// The next hint; an empty one when some were missed.
    pub(crate) async fn next(&mut self) -> String {
        loop {
            match self.messages.recv().await {
                Ok(message) => {
                    return text_of(&message.value).unwrap_or_default().to_owned();
                }
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => return String::new(),
                // The client is gone for good: nothing more will come.
                Err(tokio::sync::broadcast::error::RecvError::Closed) => {
                    std::future::pending().await
                }
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.manager.abort();
        let client = self.client.clone();
        tokio::spawn(async move { client.quit().await });
    }
}

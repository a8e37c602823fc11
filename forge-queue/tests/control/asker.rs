//! Control messages without Celery.

use data_encoding::BASE64;
use forge_redis::redis::{self, AsyncCommands as _};
use serde_json::{Value, json};

use crate::world::{NAME, World, until};

const CHANNEL: &str = "{t}:/0.celery.pidbox";

/// A control message as kombu sends it.
pub(crate) fn message(content: &Value, headers: Value) -> Vec<u8> {
    let body = BASE64.encode(content.to_string().as_bytes());
    let properties = json!({"body_encoding": "base64", "delivery_tag": "d", "delivery_info": {}});
    json!({"body": body, "content-encoding": "utf-8", "content-type": "application/json", "headers": headers,
        "properties": properties})
    .to_string()
    .into_bytes()
}

/// Speaks on the control channel and is answered.
pub(crate) struct Asker {
    pub(crate) connection: redis::aio::MultiplexedConnection,
    asked: u32,
}

impl Asker {
    pub(crate) async fn connect(world: &World) -> Self {
        let client = redis::Client::open(world.server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let binding = "me\x06\x16\x06\x16me.reply.celery.pidbox";
        let _: i64 = connection.sadd("{t}:_kombu.binding.reply.celery.pidbox", binding).await.unwrap();
        until("the presence to listen", async || {
            let listeners: Vec<redis::Value> =
                redis::cmd("PUBSUB").arg("NUMSUB").arg(CHANNEL).query_async(&mut connection.clone()).await.unwrap();
            (listeners.get(1) == Some(&redis::Value::Int(1))).then_some(())
        })
        .await;
        Self { connection, asked: 0 }
    }

    pub(crate) async fn publish(&mut self, raw: &[u8]) {
        let _: i64 = self.connection.publish(CHANNEL, raw).await.unwrap();
    }

    pub(crate) async fn ask(&mut self, method: &str, arguments: Value) -> Value {
        self.asked += 1;
        let (to, ticket) = (json!({"exchange": "reply.celery.pidbox", "routing_key": "me"}), self.asked.to_string());
        let content = json!({"method": method, "arguments": arguments, "reply_to": to, "ticket": ticket});
        self.publish(&message(&content, json!({"clock": 7}))).await;
        let connection = self.connection.clone();
        until("an answer", async || {
            let raw: Option<Vec<u8>> = connection.clone().rpop("{t}:me.reply.celery.pidbox", None).await.unwrap();
            let reply: Value = serde_json::from_slice(&raw?).unwrap();
            if reply["headers"]["ticket"] != ticket.as_str() {
                // what was still understood of a spoiled message
                return None;
            }
            let body = BASE64.decode(reply["body"].as_str().unwrap().as_bytes()).unwrap();
            Some(serde_json::from_slice::<Value>(&body).unwrap()[NAME].clone())
        })
        .await
    }
}

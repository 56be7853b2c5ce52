//! Values as JSON again, and as people read them.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map as JsonMap, Value as Json};

use super::{Key, Map, Value};
use crate::{budget::Budget, error::Error, functions::time};

impl Value<'_> {
    /// The JSON a value stands for; an error for what has none (a type, a decision, an absent optional).
    pub fn to_json(&self, budget: &mut Budget) -> Result<Json, Error> {
        budget.step(self)?;
        Ok(match self {
            Self::Null => Json::Null,
            Self::Bool(bool) => Json::Bool(*bool),
            Self::Int(int) => Json::from(*int),
            Self::Uint(uint) => Json::from(*uint),
            Self::Double(double) => serde_json::Number::from_f64(*double).map_or(Json::Null, Json::Number),
            Self::String(text) => Json::String(text.as_str().to_owned()),
            Self::Bytes(bytes) => Json::String(STANDARD.encode(bytes)),
            Self::Duration(nanos) => Json::String(time::format_duration(*nanos)),
            Self::Timestamp(moment) => Json::String(moment.to_string()),
            Self::List(list) => {
                Json::Array(list.iter().map(|element| element.to_json(budget)).collect::<Result<_, _>>()?)
            }
            Self::Map(map) => {
                let mut out = JsonMap::new();
                for key in map.keys() {
                    let Some(key) = Key::of(&key) else { continue };
                    let Some(value) = map.get(&key, budget).transpose()? else { continue };
                    let name = match (map, &key) {
                        (Map::Object(_, object), Key::String(name)) => {
                            object.fields.get(&**name).map_or_else(|| key.to_string(), |field| field.json.clone())
                        }
                        _ => key.to_string(),
                    };
                    out.insert(name, value.to_json(budget)?);
                }
                Json::Object(out)
            }
            Self::Optional(Some(inner)) => inner.to_json(budget)?,
            Self::Optional(None) => Json::Null,
            Self::Quantity(quantity) => Json::String(quantity.to_string()),
            Self::Url(url) => Json::String(url.to_string()),
            Self::Ip(ip) => Json::String(ip.to_string()),
            Self::Cidr(net) => Json::String(net.to_string()),
            Self::Semver(version) => Json::String(version.to_string()),
            other => return Err(Error::new(format!("{} has no JSON", other.type_name()))),
        })
    }
}

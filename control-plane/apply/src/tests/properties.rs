//! What holds of all applies, whatever they say.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{State, config, deployment};
use crate::{Element, Scalar, Set, compare};

/// Names of containers, labels and so on; few, so that they meet.
fn name() -> impl Strategy<Value = String> {
    "[abcd]"
}

/// What a plain model knows of a configuration: labels and containers with their images.
#[derive(Clone, Debug, Default)]
struct Model {
    labels: BTreeMap<String, u8>,
    images: BTreeMap<String, u8>,
}

fn model() -> impl Strategy<Value = Model> {
    let map = || prop::collection::btree_map(name(), 0_u8..3, 0..4);
    (map(), map()).prop_map(|(labels, images)| Model { labels, images })
}

impl Model {
    fn config(&self) -> Value {
        let containers: Vec<_> =
            self.images.iter().map(|(name, image)| json!({"name": name, "image": image.to_string()})).collect();
        // Empty lists are values of their own; the model does not know them.
        let mut object = config(Value::Null);
        if !containers.is_empty() {
            object["spec"] = json!({"template": {"spec": {"containers": containers}}});
        }
        object.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        let labels: serde_json::Map<_, _> =
            self.labels.iter().map(|(key, value)| (key.clone(), json!(value.to_string()))).collect();
        if !labels.is_empty() {
            object["metadata"]["labels"] = labels.into();
        }
        object
    }

    fn read(object: &Value) -> Self {
        // A container may be all that its forced-aside owner still has of it.
        let number = |value: &Value| value.as_str().map_or(u8::MAX, |text| text.parse().unwrap());
        let labels = object["metadata"]["labels"].as_object();
        let containers = object["spec"]["template"]["spec"]["containers"].as_array();
        Self {
            labels: labels.into_iter().flatten().map(|(key, value)| (key.clone(), number(value))).collect(),
            images: containers
                .into_iter()
                .flatten()
                .map(|item| (item["name"].as_str().unwrap().to_owned(), number(&item["image"])))
                .collect(),
        }
    }
}

/// What appliers said last, by a plain rule: an item is there while anyone says it, as the last one said it.
#[derive(Default)]
struct Plain {
    said: BTreeMap<String, Model>,
    labels: BTreeMap<String, u8>,
    images: BTreeMap<String, u8>,
}

impl Plain {
    fn apply(&mut self, who: &str, says: &Model) {
        let before = self.said.remove(who).unwrap_or_default();
        let fold = |mine: &mut BTreeMap<String, u8>,
                    old: &BTreeMap<String, u8>,
                    new: &BTreeMap<String, u8>,
                    others: Vec<&BTreeMap<String, u8>>| {
            mine.retain(|key, _| {
                !old.contains_key(key) || new.contains_key(key) || others.iter().any(|other| other.contains_key(key))
            });
            mine.extend(new.iter().map(|(key, value)| (key.clone(), *value)));
        };
        // Who is forced aside owns the item no more, but of a container still its name.
        for other in self.said.values_mut() {
            other.labels.retain(|key, value| says.labels.get(key).is_none_or(|new| new == value));
        }
        fold(&mut self.labels, &before.labels, &says.labels, self.said.values().map(|m| &m.labels).collect());
        fold(&mut self.images, &before.images, &says.images, self.said.values().map(|m| &m.images).collect());
        self.said.insert(who.to_owned(), says.clone());
    }
}

fn steps() -> impl Strategy<Value = Vec<(String, Model)>> {
    prop::collection::vec(("[xyz]", model()), 1..8)
}

fn element() -> impl Strategy<Value = Element> {
    prop_oneof![
        name().prop_map(|name| Element::field(&name)),
        (0_i64..3).prop_map(Element::Index),
        prop_oneof![Just(json!("<&>")), Just(json!(1)), Just(json!(true)), Just(json!(1.5))]
            .prop_map(|value| Element::Value(Scalar(value))),
        (name(), 0_i64..3).prop_map(|(name, value)| Element::Key([(name.into(), Scalar(json!(value)))].into())),
    ]
}

fn set() -> impl Strategy<Value = Set> {
    prop::collection::vec(prop::collection::vec(element(), 1..4), 0..12).prop_map(|paths| {
        let mut set = Set::default();
        paths.iter().for_each(|path| set.insert(path));
        set
    })
}

proptest! {
    #[test]
    fn forced_applies_leave_what_a_plain_model_leaves(steps in steps()) {
        let (mut state, mut plain) = (State::default(), Plain::default());
        for (who, says) in &steps {
            state.apply_as(deployment(), who, &says.config(), true).unwrap();
            plain.apply(who, says);
            let got = Model::read(state.object.as_ref().unwrap_or(&json!({})));
            prop_assert_eq!(&got.labels, &plain.labels);
            prop_assert_eq!(got.images.keys().collect::<Vec<_>>(), plain.images.keys().collect::<Vec<_>>());
        }
    }

    #[test]
    fn applying_twice_is_applying_once(steps in steps()) {
        let mut state = State::default();
        for (who, says) in &steps {
            state.apply_as(deployment(), who, &says.config(), true).unwrap();
            let (object, managed) = (state.object.clone(), state.managed.clone().encode());
            state.apply_as(deployment(), who, &says.config(), false).unwrap();
            prop_assert_eq!(&state.object, &object);
            prop_assert_eq!(state.managed.clone().encode(), managed);
        }
    }

    #[test]
    fn those_who_say_nothing_in_common_never_conflict(mut one in model(), two in model()) {
        one.labels.retain(|key, _| !two.labels.contains_key(key));
        one.images.retain(|key, _| !two.images.contains_key(key));
        let mut state = State::default();
        state.apply_as(deployment(), "x", &one.config(), false).unwrap();
        state.apply_as(deployment(), "y", &two.config(), false).unwrap();
        let both = Model::read(state.object.as_ref().unwrap());
        prop_assert_eq!(both.labels.len(), one.labels.len() + two.labels.len());
        prop_assert_eq!(both.images.len(), one.images.len() + two.images.len());
    }

    #[test]
    fn nothing_remains_of_who_applies_nothing(steps in steps()) {
        let mut state = State::default();
        for (who, says) in &steps {
            state.apply_as(deployment(), who, &says.config(), true).unwrap();
        }
        for who in ["x", "y", "z"] {
            state.apply_as(deployment(), who, &Model::default().config(), false).unwrap();
            prop_assert_eq!(state.owned(who), Vec::<String>::new());
        }
        let left = Model::read(state.object.as_ref().unwrap_or(&json!({})));
        prop_assert!(left.labels.is_empty() && left.images.is_empty(), "{:?}", left);
    }

    #[test]
    fn updates_and_applies_agree_on_who_owns_what(one in model(), two in model()) {
        let mut state = State::default();
        state.apply_as(deployment(), "x", &one.config(), false).unwrap();
        state.update_as(deployment(), "y", &two.config());
        // Nobody owns what is not there; what the update changed is no longer the applier's.
        for (key, value) in &one.labels {
            let path = format!(".metadata.labels.{key}");
            prop_assert_eq!(state.owned("x").contains(&path), two.labels.get(key) == Some(value));
            let taken = two.labels.get(key).is_some_and(|other| other != value);
            prop_assert_eq!(state.owned("y").contains(&path), taken);
        }
    }

    #[test]
    fn an_object_does_not_differ_from_itself(one in model(), two in model()) {
        prop_assert!(compare(deployment(), &one.config(), &one.config()).is_same());
        let change = compare(deployment(), &one.config(), &two.config());
        let back = compare(deployment(), &two.config(), &one.config());
        prop_assert_eq!((change.added, change.modified, change.removed), (back.removed, back.modified, back.added));
    }

    #[test]
    fn sets_are_read_as_they_were_written(one in set(), two in set()) {
        let stored = one.to_fields_v1();
        prop_assert_eq!(&Set::from_fields_v1(&stored).unwrap(), &one);
        prop_assert_eq!(two.overlaps_stored(&stored), two.overlaps(&one));
        prop_assert_eq!(two.is_within_stored(&stored), two.clone().difference(&one).is_empty());
    }

    #[test]
    fn sets_are_sets(one in set(), two in set()) {
        let union = one.clone().union(&two);
        prop_assert_eq!(&two.clone().union(&one), &union);
        let both = one.intersection(&two);
        prop_assert_eq!(one.overlaps(&two), !both.is_empty());
        prop_assert_eq!(one.clone().difference(&two).union(&both), one.clone());
        prop_assert_eq!(one.is_within(&two), one.clone().difference(&two).is_empty());
        prop_assert!(one.is_within(&union) && both.is_within(&one));
        for path in one.paths() {
            prop_assert!(union.has(&path.0));
            prop_assert_eq!(both.has(&path.0), two.has(&path.0));
        }
    }

    #[test]
    fn no_value_makes_it_panic(text in "[\\[\\]{}\",:.fkvi0-9a]{0,30}", object in model()) {
        if let Ok(value) = serde_json::from_str::<Value>(&text) {
            let _ = Set::from_fields_v1(&value);
            let _ = compare(deployment(), &value, &object.config());
            let mut state = State { object: Some(value), ..State::default() };
            let _ = state.apply_as(deployment(), "x", &object.config(), true);
        }
        let _ = Element::parse(&text);
    }
}

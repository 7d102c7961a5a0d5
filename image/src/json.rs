//! Deserializes JSON with case-insensitive keys, as Go's encoding/json, by which every other runtime reads these documents:
//! FreeBSD's own images have `config.cmd`. An exact match has priority, and the last of several keys for one field counts. The
//! keys of maps (labels) are kept. A field that is missing or null has the zero value of its type, also as in Go: an empty text,
//! list or map, 0, false, None. Errors name the field. Pure.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::forward_to_deserialize_any;
use serde_json::Error;
use serde_json::value::RawValue;

/// Deserializes a document.
///
/// # Errors
/// It is not JSON, or not of this type.
pub(crate) fn from_slice<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Error> {
    T::deserialize(Folded(serde_json::from_slice(bytes)?))
}

/// Deserializes a value with case-insensitive keys. Each level parses the raw text again and copies nothing: memory is bounded by
/// the result.
struct Folded<'de>(&'de RawValue);

impl<'de> Folded<'de> {
    fn plain(&self) -> serde_json::Deserializer<serde_json::de::StrRead<'de>> {
        serde_json::Deserializer::from_str(self.0.get())
    }

    fn is_null(&self) -> bool {
        self.0.get() == NULL
    }

    /// As [`Self::plain`], but null is the zero value of the type.
    fn or_zero(&self, zero: &'static str) -> serde_json::Deserializer<serde_json::de::StrRead<'de>> {
        if self.is_null() { serde_json::Deserializer::from_str(zero) } else { self.plain() }
    }
}

const NULL: &str = "null";

/// Deserializes a scalar whose zero value is this text.
macro_rules! scalars {
    ($($zero:literal: $($method:ident)*;)*) => {
        $($(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            self.or_zero($zero).deserialize_any(visitor)
        })*)*
    };
}

impl<'de> Deserializer<'de> for Folded<'de> {
    type Error = Error;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.or_zero("{}").deserialize_map(Fields { names, visitor })
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.or_zero("{}").deserialize_map(Each(visitor))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.or_zero("[]").deserialize_seq(Each(visitor))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.is_null() { visitor.visit_none() } else { visitor.visit_some(self) }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.plain().deserialize_enum(name, variants, visitor)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.plain().deserialize_any(visitor)
    }

    scalars! {
        "false": deserialize_bool;
        "0": deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
            deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64;
        "\"\"": deserialize_str deserialize_string;
    }

    forward_to_deserialize_any! {
        i128 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

/// Chooses the value of each field of a struct, and passes them to the struct's visitor.
struct Fields<V> {
    names: &'static [&'static str],
    visitor: V,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Fields<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<V::Value, A::Error> {
        let null: &'static RawValue = serde_json::from_str(NULL).expect("null is JSON");
        let mut values: BTreeMap<&'static str, &'de RawValue> = self.names.iter().map(|name| (*name, null)).collect();
        while let Some(key) = map.next_key::<String>()? {
            if let Some(name) = field(self.names, &key) {
                values.insert(name, map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        self.visitor.visit_map(Chosen { left: values.into_iter(), value: None }).map_err(A::Error::custom)
    }
}

struct Chosen<'de> {
    left: std::collections::btree_map::IntoIter<&'static str, &'de RawValue>,
    value: Option<(&'static str, &'de RawValue)>,
}

impl<'de> MapAccess<'de> for Chosen<'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        let Some((name, value)) = self.left.next() else { return Ok(None) };
        self.value = Some((name, value));
        seed.deserialize(BorrowedStrDeserializer::new(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (name, value) = self.value.take().expect("a key came before its value");
        seed.deserialize(Folded(value)).map_err(|error| Error::custom(format!("{name}: {error}")))
    }
}

/// Passes on the elements of a list or the values of a map, with case-insensitive keys inside.
struct Each<T>(T);

impl<'de, V: Visitor<'de>> Visitor<'de> for Each<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<V::Value, A::Error> {
        self.0.visit_seq(Each(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<V::Value, A::Error> {
        self.0.visit_map(Each(map))
    }
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Each<A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let Some(value) = self.0.next_element::<&'de RawValue>()? else { return Ok(None) };
        seed.deserialize(Folded(value)).map(Some).map_err(A::Error::custom)
    }
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Each<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let value: &'de RawValue = self.0.next_value()?;
        seed.deserialize(Folded(value)).map_err(A::Error::custom)
    }
}

/// Finds the field of a key.
fn field(names: &'static [&'static str], key: &str) -> Option<&'static str> {
    let same = |name: &&&str| folded(name).eq(folded(key));
    names.iter().find(|name| **name == key).or_else(|| names.iter().find(same)).copied()
}

fn folded(text: &str) -> impl Iterator<Item = char> {
    text.chars().map(fold)
}

/// Folds a letter as encoding/json does: two letters beyond ASCII fold to ASCII.
fn fold(letter: char) -> char {
    match letter {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        letter => letter.to_ascii_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::from_slice;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "camelCase", default)]
    struct Outer {
        media_type: Option<String>,
        size: u32,
        inner: Option<Inner>,
        list: Vec<Inner>,
        labels: BTreeMap<String, String>,
        #[serde(rename = "Twin")]
        upper: u32,
        #[serde(rename = "twin")]
        lower: u32,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(rename_all = "PascalCase", default)]
    struct Inner {
        cmd: Option<Vec<String>>,
    }

    fn inner(word: &str) -> Inner {
        Inner { cmd: Some(vec![word.to_owned()]) }
    }

    #[test]
    fn a_key_means_a_field_whatever_its_case() {
        let empty = BTreeMap::from([("a".to_owned(), String::new())]);
        let labels = BTreeMap::from([("Key".to_owned(), "a".to_owned()), ("key".to_owned(), "b".to_owned())]);
        let table = [
            (r#"{"mediaType":"x","size":1}"#, Outer { media_type: Some("x".into()), size: 1, ..Outer::default() }),
            (
                r#" {"MEDIATYPE":"x","Si\u007ae":1} "#,
                Outer { media_type: Some("x".into()), size: 1, ..Outer::default() },
            ),
            ("{\"\u{17f}ize\":1}", Outer { size: 1, ..Outer::default() }),
            (r#"{"mediatype":null,"Inner":null,"other":{"size":[2]}}"#, Outer::default()),
            (r#"{"INNER":{"cmd":["x"]}}"#, Outer { inner: Some(inner("x")), ..Outer::default() }),
            (
                r#"{"list":[{"CMD":["x"]},{"Cmd":["y"]}]}"#,
                Outer { list: vec![inner("x"), inner("y")], ..Outer::default() },
            ),
            (r#"{"labels":{"Key":"a","key":"b"}}"#, Outer { labels, ..Outer::default() }),
            // The last one counts, exact match or not.
            (r#"{"size":1,"Size":2}"#, Outer { size: 2, ..Outer::default() }),
            (r#"{"Size":2,"size":1}"#, Outer { size: 1, ..Outer::default() }),
            (r#"{"size":"x","size":1}"#, Outer { size: 1, ..Outer::default() }),
            // A null field has the zero value of its type.
            (r#"{"size":null,"list":null,"labels":null,"Twin":null}"#, Outer::default()),
            (
                r#"{"list":[null],"labels":{"a":null}}"#,
                Outer { list: vec![Inner::default()], labels: empty, ..Outer::default() },
            ),
            // Where two fields differ in case only, each has its exact key; any other key means the first field.
            (r#"{"Twin":1,"twin":2}"#, Outer { upper: 1, lower: 2, ..Outer::default() }),
            (r#"{"TWIN":3}"#, Outer { upper: 3, ..Outer::default() }),
        ];
        for (text, expected) in table {
            assert_eq!(from_slice::<Outer>(text.as_bytes()).unwrap(), expected, "{text}");
        }
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Required {
        name: String,
        list: Vec<u8>,
        nested: Option<Box<Required>>,
    }

    #[test]
    fn what_is_missing_has_the_zero_value_and_what_is_wrong_is_named() {
        let zero = Required { name: String::new(), list: Vec::new(), nested: None };
        assert_eq!(from_slice::<Required>(b"{}").unwrap(), zero);
        let error = from_slice::<Required>(br#"{"nested":{"list":["x"]}}"#).unwrap_err().to_string();
        assert!(error.starts_with("nested: list: invalid type"), "{error}");
    }

    #[test]
    fn what_is_malformed_is_refused() {
        let deep = "[".repeat(100_000);
        let closed = format!("{{\"list\":{deep}{}}}", "]".repeat(100_000));
        for text in ["", "{", "[]", "{} x", r#"{"size":"x"}"#, r#"{"list":[{"cmd":1}]}"#, "\u{fffd}", &deep, &closed] {
            assert!(from_slice::<Outer>(text.as_bytes()).is_err(), "{text:.40}");
        }
        assert!(from_slice::<Outer>(b"{\"mediaType\":\"\xff\"}").is_err());
    }
}

//! Schemas of configuration values whose JSON is a choice, which a derive can't see.

use utoipa::{
    PartialSchema, ToSchema,
    openapi::{
        ObjectBuilder, OneOfBuilder, RefOr, Schema,
        schema::{SchemaType, Type},
    },
};

use crate::config::raw::{Checks, Health, Port};

impl PartialSchema for Port {
    fn schema() -> RefOr<Schema> {
        let number =
            ObjectBuilder::new().schema_type(SchemaType::Type(Type::Integer)).minimum(Some(1)).maximum(Some(u16::MAX));
        OneOfBuilder::new().description(Some("A port number or \"any\".")).item(number).item(word("any")).into()
    }
}

impl ToSchema for Port {}

impl PartialSchema for Health {
    fn schema() -> RefOr<Schema> {
        OneOfBuilder::new()
            .description(Some("Health checks, or \"none\": backends are taken as always up."))
            .item(Checks::schema())
            .item(word("none"))
            .into()
    }
}

impl ToSchema for Health {}

/// A string that can only be `word`.
fn word(word: &str) -> ObjectBuilder {
    ObjectBuilder::new().schema_type(SchemaType::Type(Type::String)).enum_values(Some([word]))
}

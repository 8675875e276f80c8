//! Names parsed once and used by all: principals, registries, keys, topics, filters.

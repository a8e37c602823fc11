//! What agents remember: vector stores, embedders and language-model providers.

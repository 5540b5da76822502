"""The embedded world of the replies recipe: social-media posts, replies, a chat model and a sentence encoder."""

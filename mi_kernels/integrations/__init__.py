"""Where merges are used: other tools' extension points, each imported by that tool or by its user alone."""

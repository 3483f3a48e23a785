/* container_private.h: the opened container, shared by container.c and hf_folder.c. */
#ifndef KM_IO_CONTAINER_PRIVATE_H
#define KM_IO_CONTAINER_PRIVATE_H

#include "io/io_private.h"

/* One mapped safetensors file. */
typedef struct km_shard {
    char *name; /* file name inside the folder */
    char *path;
    km_map map;
    km_safetensors *st;
} km_shard;

struct km_container {
    km_ctx *ctx;
    char *path;
    km_map map; /* the GGUF file; size 0 for a folder */
    km_gguf *gguf;
    km_map config, tokenizer, tokenizer_config; /* JSON files of a folder; size 0 when absent */
    km_shard *shards;
    int n_shards;
    const km_tensor_info **tensors; /* (n_tensors) all shards' tensors in file order */
    const km_tensor_info **by_name;
    int64_t n_tensors;
    const km_container *base; /* of an overlay, which owns the three below and no file */
    km_tensor_info *infos;    /* (n_tensors) in the base's order */
    float *replaced;
};

/* Fill a container whose path is a folder. */
KM_NODISCARD km_status km__folder_open(km_container *container, km_error *err);
/* The same of a folder whose config.json and weights are in memory; takes the maps. */
KM_NODISCARD km_status km__folder_from_maps(km_container *container, km_map *config,
                                            km_map *weights, km_error *err);

#endif

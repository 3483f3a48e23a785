/* save_private.h: what the writers of libkm/model share. */
#ifndef KM_MODEL_SAVE_PRIVATE_H
#define KM_MODEL_SAVE_PRIVATE_H

#include "io/write.h"
#include "km/save.h"
#include "model/model_private.h"

/* The tensors to write, in the container's order, their types chosen by the options. */
typedef struct km__save_list {
    km_write_tensor *items; /* (n) */
    int64_t n;
} km__save_list;

/* save.c: the type a tensor is written in; dims as written. */
km_dtype km__save_type(const char *name, const km_tensor_info *info, int64_t cols,
                       km_save_dtype dtype, bool gguf);
KM_NODISCARD km_status km__save_check_target(const char *path, bool gguf, bool overwrite,
                                             km_error *err);

/* save_folder.c: the same model as a folder; save_gguf.c: as a file. `list` has names and types. */
KM_NODISCARD km_status km__save_gguf(const km_model *model, const char *path,
                                     const km__save_list *list, const km_save_options *options,
                                     km_error *err);
KM_NODISCARD km_status km__save_folder(const km_model *model, const char *path,
                                       const km__save_list *list, const km_save_options *options,
                                       km_error *err);

#endif

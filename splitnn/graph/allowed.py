"""The operators of aten that a model may call: what networks compute with, and what checks its bounds.

Left out are operators that write into their arguments, read files, uninitialised memory or addresses that a tensor
holds (packed weights), trust offsets that they are given, or belong to training, to sparse, quantised or nested
tensors, or to one vendor's library. To admit another one, read its CPU kernel first: whoever can hand us a model can
call it with any arguments.
"""

ALLOWED = frozenset(
    """
abs absolute acos acosh adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d
adaptive_max_pool2d adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr adjoint affine_grid_generator
alias alias_copy all allclose alpha_dropout amax amin aminmax angle any arange arccos arccosh arcsin arcsinh
arctan arctan2 arctanh argmax argmin argsort argwhere asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d
avg_pool1d avg_pool2d avg_pool3d baddbmm bartlett_window batch_norm bernoulli bilinear binary_cross_entropy
binary_cross_entropy_with_logits bincount bitwise_and bitwise_left_shift bitwise_not bitwise_or
bitwise_right_shift bitwise_xor blackman_window block_diag bmm broadcast_tensors broadcast_to bucketize
cartesian_prod cat cdist ceil celu chain_matmul chalf channel_shuffle cholesky cholesky_inverse cholesky_solve
chunk clamp clamp_max clamp_min clip clone col2im column_stack combinations complex concat concatenate conj
conj_physical constant_pad_nd contiguous conv1d conv2d conv3d conv_tbc conv_transpose1d conv_transpose2d
conv_transpose3d convolution copysign corrcoef cos cosh cosine_similarity count_nonzero cov cross cummax cummin
cumprod cumsum cumulative_trapezoid deg2rad det detach detach_copy diag diag_embed diagflat diagonal diagonal_copy
diagonal_scatter diff digamma dim dist div divide dot dropout dsplit dstack einsum elu embedding eq equal erf erfc
erfinv exp exp2 expand expand_as expand_copy expm1 eye feature_alpha_dropout feature_dropout fft_fft fft_fft2
fft_fftfreq fft_fftn fft_fftshift fft_hfft fft_hfft2 fft_hfftn fft_ifft fft_ifft2 fft_ifftn fft_ifftshift
fft_ihfft fft_ihfft2 fft_ihfftn fft_irfft fft_irfft2 fft_irfftn fft_rfft fft_rfft2 fft_rfftfreq fft_rfftn fill fix
flatten flip fliplr flipud float_power floor floor_divide fmax fmin fmod frac frexp frobenius_norm full full_like
gather gcd ge gelu ger glu greater greater_equal grid_sampler grid_sampler_2d grid_sampler_3d group_norm gru
gru_cell gt hamming_window hann_window hardshrink hardsigmoid hardswish hardtanh heaviside histc histogram
histogramdd hsplit hstack hypot i0 igamma igammac im2col imag index index_add index_copy index_fill index_put
index_reduce index_select inner instance_norm inverse isclose isfinite isin isinf isnan isneginf isposinf isreal
istft item kaiser_window kl_div kron kthvalue layer_norm lcm ldexp le leaky_relu lerp less less_equal lgamma
lift_fresh lift_fresh_copy linalg__powsum linalg_cholesky linalg_cholesky_ex linalg_cond linalg_cross linalg_det
linalg_diagonal linalg_eig linalg_eigh linalg_eigvals linalg_eigvalsh linalg_householder_product linalg_inv
linalg_inv_ex linalg_lstsq linalg_lu linalg_lu_factor linalg_lu_factor_ex linalg_matmul linalg_matrix_exp
linalg_matrix_norm linalg_matrix_power linalg_matrix_rank linalg_multi_dot linalg_norm linalg_pinv linalg_qr
linalg_slogdet linalg_solve linalg_solve_ex linalg_solve_triangular linalg_svd linalg_svdvals linalg_tensorinv
linalg_tensorsolve linalg_vander linalg_vecdot linalg_vector_norm linear linspace log log10 log1p log2 log_sigmoid
log_sigmoid_forward log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not logical_or
logical_xor logit logspace logsumexp lstm lstm_cell lt mH mT masked_fill masked_scatter masked_select matmul
matrix_H matrix_exp matrix_power max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices
max_pool3d max_pool3d_with_indices max_unpool2d max_unpool3d maximum mean median meshgrid min minimum mish mm mode
moveaxis movedim msort mul multinomial multiply mv mvlgamma nan_to_num nanmean nanmedian nanquantile nansum narrow
narrow_copy native_batch_norm native_channel_shuffle native_dropout native_group_norm native_layer_norm ne neg
negative new_full new_ones new_zeros nextafter nonzero nonzero_numpy norm normal normal_functional not_equal
nuclear_norm numel one_hot ones ones_like outer pad pad_sequence pairwise_distance pdist permute permute_copy
pinverse pixel_shuffle pixel_unshuffle polar polygamma positive pow prelu prod qr quantile rad2deg rand rand_like
randint randint_like randn randn_like randperm range ravel real reciprocal reflection_pad1d reflection_pad2d
reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave replication_pad1d replication_pad2d
replication_pad3d reshape reshape_as resolve_conj resolve_neg rms_norm rnn_relu rnn_relu_cell rnn_tanh
rnn_tanh_cell roll rot90 round row_stack rsqrt rsub scalar_tensor scaled_dot_product_attention scatter scatter_add
scatter_reduce searchsorted select select_copy select_scatter selu sgn sigmoid sign signbit silu sin sinc sinh
size slice slice_copy slice_scatter slogdet softmax softplus softshrink sort special_digamma special_entr
special_erf special_erfc special_erfcx special_erfinv special_exp2 special_expit special_expm1 special_gammainc
special_gammaincc special_gammaln special_i0 special_i0e special_i1 special_i1e special_log1p special_log_ndtr
special_log_softmax special_logit special_logsumexp special_multigammaln special_ndtr special_ndtri
special_polygamma special_psi special_round special_sinc special_softmax special_xlog1py special_xlogy
special_zeta split split_copy split_with_sizes split_with_sizes_copy sqrt square squeeze squeeze_copy stack std
std_mean stft sub subtract sum sum_to_size svd swapaxes swapdims sym_numel sym_size t t_copy take take_along_dim
tan tanh tensor_split tensordot threshold tile to topk trace transpose transpose_copy trapezoid trapz
triangular_solve tril tril_indices triu triu_indices true_divide trunc type_as unbind unbind_copy unflatten unfold
unfold_copy unique_consecutive unique_dim unique_dim_consecutive unsafe_chunk unsafe_split unsafe_split_with_sizes
unsqueeze unsqueeze_copy upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d
upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var var_mean vdot view view_as view_as_complex
view_as_complex_copy view_as_real view_as_real_copy view_copy vsplit vstack where xlogy zero zeros zeros_like
""".split()  # noqa: SIM905 - six hundred quotes and commas would read worse
)

ALLOWED_PRIVATE = frozenset(
    """
_adaptive_avg_pool2d _adaptive_avg_pool3d _batch_norm_no_update _cdist_forward _conj _conj_physical _convolution
_convolution_mode _euclidean_dist _fft_c2c _fft_c2r _fft_r2c _linalg_det _linalg_eigh _linalg_slogdet
_linalg_solve_ex _linalg_svd _local_scalar_dense _log_softmax _native_batch_norm_legit
_native_batch_norm_legit_no_training _neg_view _pdist_forward _prelu_kernel _safe_softmax
_scaled_dot_product_flash_attention_for_cpu _softmax _stack _to_copy _trilinear _unique2 _unsafe_view
_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm _weight_norm_interface
""".split()  # noqa: SIM905 - six hundred quotes and commas would read worse
)
"""What torch's own layers turn into; other names with an underscore trust their caller."""

// Run an exported network with onnxruntime's C++ API, and print its five best classes.
//
//   fsurgeon export pruned.safetensors -o pruned.onnx
//   g++ -std=c++17 classify.cpp -I "$ORT/include" -L "$ORT/lib" -lonnxruntime -o classify
//   ./classify pruned.onnx image.f32
//
// $ORT is an unpacked release of onnxruntime; Debian has the package libonnxruntime-dev
// (-I /usr/include/onnxruntime). image.f32 holds one preprocessed image: float32 values, channel
// after channel, row after row. Without it, the image is all zeros.

#include <onnxruntime_cxx_api.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <fstream>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

static std::vector<float> read_image(const std::string& path, std::size_t count) {
  std::vector<float> image(count);
  if (path.empty()) return image;
  std::ifstream file(path, std::ios::binary);
  const auto wanted = static_cast<std::streamsize>(count * sizeof(float));
  file.read(reinterpret_cast<char*>(image.data()), wanted);
  if (file.gcount() != wanted || file.peek() != EOF) {
    throw std::runtime_error(path + " should hold " + std::to_string(count) + " float32 values");
  }
  return image;
}

static void classify(const std::string& model, const std::string& picture) {
  Ort::Env env(ORT_LOGGING_LEVEL_WARNING, "classify");
  Ort::SessionOptions options;
  options.SetIntraOpNumThreads(1);
  Ort::Session session(env, model.c_str(), options);

  Ort::AllocatorWithDefaultOptions allocator;
  const auto input_name = session.GetInputNameAllocated(0, allocator);
  const auto output_name = session.GetOutputNameAllocated(0, allocator);
  auto shape = session.GetInputTypeInfo(0).GetTensorTypeAndShapeInfo().GetShape();
  for (auto& side : shape) side = side < 0 ? 1 : side;  // --dynamic-batch: one image
  const auto count = static_cast<std::size_t>(
      std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies<>()));

  std::vector<float> image = read_image(picture, count);
  const auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  const auto input =
      Ort::Value::CreateTensor<float>(memory, image.data(), count, shape.data(), shape.size());
  const char* inputs[] = {input_name.get()};
  const char* outputs[] = {output_name.get()};
  auto results = session.Run(Ort::RunOptions{nullptr}, inputs, &input, 1, outputs, 1);

  const float* scores = results[0].GetTensorData<float>();
  const auto classes = results[0].GetTensorTypeAndShapeInfo().GetElementCount();
  std::vector<std::size_t> order(classes);
  std::iota(order.begin(), order.end(), std::size_t{0});
  const auto best = order.begin() + static_cast<std::ptrdiff_t>(std::min<std::size_t>(5, classes));
  std::partial_sort(order.begin(), best, order.end(),
                    [&](auto a, auto b) { return scores[a] > scores[b]; });
  for (auto place = order.begin(); place != best; ++place) {
    std::printf("class %zu  score %.4f\n", *place, static_cast<double>(scores[*place]));
  }
}

int main(int argc, char** argv) {
  if (argc < 2 || argc > 3) {
    std::fprintf(stderr, "usage: classify MODEL.onnx [IMAGE.f32]\n");
    return 2;
  }
  try {
    classify(argv[1], argc > 2 ? argv[2] : "");
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 2;
  }
  return 0;
}
